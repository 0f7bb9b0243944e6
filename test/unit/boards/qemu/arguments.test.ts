import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { parse } from "yaml";
import { qemuWords, type QemuFiles, type QemuWords } from "../../../../boards/qemu/arguments.ts";
import { cloudInitFiles } from "../../../../boards/qemu/cloud-init.ts";
import { qemuConfig } from "../../../../boards/qemu/config.ts";
import { formatSize, parseSize } from "../../../../boards/qemu/sizes.ts";

const noFiles: QemuFiles = { bios: undefined, ovmf: undefined, root: undefined };

function line(config: Record<string, unknown>, more: Partial<QemuWords> = {}): string {
  const parsed = qemuConfig.parse(config);
  const given = { config: parsed, kvm: false, memory: parsed.mem, directory: "/w", cid: undefined, files: noFiles };
  const [program, args] = qemuWords({ ...given, ...more });
  return [program, ...args].join(" ");
}

const cidata =
  "-blockdev driver=vvfat,node-name=cidata,read-only=on,dir=/w/cidata,label=CIDATA -device virtio-blk-pci,drive=cidata -S";
const middle =
  "-qmp unix:/w/qmp,server=on,wait=off -smp 2 -m 512M -vnc unix:/w/vnc -vga none -serial pty -netdev user,id=eth0 " +
  "-device virtio-net-pci,netdev=eth0 -device virtio-gpu-pci";

describe("QEMU's command line is that of the Python driver, and starts stopped", () => {
  test("x86_64, emulated", () => {
    const cpu = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt";
    assert.equal(
      line({ arch: "x86_64" }),
      `qemu-system-x86_64 -nodefaults -nographic -machine q35 -cpu ${cpu} ${middle} ${cidata}`,
    );
  });

  test("aarch64, emulated", () => {
    assert.equal(
      line({ arch: "aarch64" }),
      `qemu-system-aarch64 -nodefaults -nographic -machine virt -cpu cortex-a57 ${middle} ${cidata}`,
    );
  });

  test("with KVM the processor is the host's, unless another one is wanted", () => {
    const start = "qemu-system-x86_64 -nodefaults -nographic -accel kvm -machine q35 -cpu";
    assert.equal(line({ arch: "x86_64" }, { kvm: true }), `${start} host ${middle} ${cidata}`);
    assert.equal(line({ arch: "x86_64", cpu: "Skylake" }, { kvm: true }), `${start} Skylake ${middle} ${cidata}`);
  });

  test("another processor is started without a machine of our choice", () => {
    assert.equal(
      line({ arch: "riscv64", cpu: "rv64" }),
      `qemu-system-riscv64 -nodefaults -nographic -cpu rv64 ${middle} ${cidata}`,
    );
  });

  test("sizes, forwarded ports and a virtual socket", () => {
    const hostfwd = {
      ssh: { hostport: 9022, guestport: 22 },
      web: { protocol: "tcp", hostaddr: "0.0.0.0", hostport: "8080", guestport: 80.0 },
    };
    const words = line({ arch: "aarch64", smp: 4, mem: "2G", hostfwd }, { cid: 77 });
    assert.equal(
      words,
      "qemu-system-aarch64 -nodefaults -nographic -machine virt -cpu cortex-a57 -qmp unix:/w/qmp,server=on,wait=off " +
        "-smp 4 -m 2G -vnc unix:/w/vnc -vga none -serial pty " +
        "-netdev user,id=eth0,hostfwd=tcp:127.0.0.1:9022-:22,hostfwd=tcp:0.0.0.0:8080-:80 " +
        `-device virtio-net-pci,netdev=eth0 -device virtio-gpu-pci -device vhost-vsock-pci,guest-cid=77 ${cidata}`,
    );
  });

  test("firmware and a root image, in a folder whose name has a comma", () => {
    const files: QemuFiles = {
      bios: "/w/bios",
      ovmf: { code: "/f/CODE,4M.fd", vars: "/w/OVMF_VARS.fd" },
      root: { path: "/w/a,b", format: "qcow2" },
    };
    const words = line({ arch: "x86_64" }, { files, directory: "/w,1" });
    assert.ok(
      words.endsWith(
        "-netdev user,id=eth0 -device virtio-net-pci,netdev=eth0 -device virtio-gpu-pci -bios /w/bios " +
          "-drive file=/f/CODE,,4M.fd,if=pflash,format=raw,unit=0,readonly=on " +
          "-drive file=/w/OVMF_VARS.fd,if=pflash,format=raw,unit=1,snapshot=on,readonly=off " +
          "-blockdev driver=qcow2,node-name=rootfs,file.driver=file,file.filename=/w/a,,b -device virtio-blk-pci,drive=rootfs,bootindex=1 " +
          "-blockdev driver=vvfat,node-name=cidata,read-only=on,dir=/w,,1/cidata,label=CIDATA -device virtio-blk-pci,drive=cidata -S",
      ),
      words,
    );
    assert.match(words, /-qmp unix:\/w,,1\/qmp,server=on,wait=off .*-vnc unix:\/w,,1\/vnc /);
  });
});

test("sizes mean what they mean to Python", () => {
  const meant: [string, number | undefined][] = [
    ["20G", 21_474_836_480],
    ["0.5g", 2 ** 29],
    ["512M", 2 ** 29],
    ["2T", 2 ** 41],
    ["3k", 3_072],
    ["20GB", 20_000_000_000],
    ["2GiB", 2 ** 31],
    ["1024", 1_024],
  ];
  for (const wrong of ["invalid", "", "G", "-1G", "0", "1X", "1e3", "9999999T"]) meant.push([wrong, undefined]);
  for (const [text, bytes] of meant) assert.equal(parseSize(text), bytes, text);
  assert.deepEqual([512, 2 ** 20, 21_474_836_480].map(formatSize), ["512B", "1.0MiB", "20.0GiB"]);
});

test("cloud-init gets a user with a password, whatever characters it has", () => {
  const files = cloudInitFiles({ instanceId: "i-1", hostname: "demo", username: "u", password: `a: "b" #c` });
  assert.deepEqual(parse(files["meta-data"] ?? ""), { "instance-id": "i-1", "local-hostname": "demo" });
  assert.match(files["user-data"] ?? "", /^#cloud-config\n/);
  assert.deepEqual(parse(files["user-data"] ?? ""), {
    ssh_pwauth: true,
    users: [{ name: "u", plain_text_passwd: `a: "b" #c`, lock_passwd: false, sudo: "ALL=(ALL) NOPASSWD:ALL" }],
  });
});

test("what a configuration cannot mean is refused by name", () => {
  const problem = (config: Record<string, unknown>) => {
    const { error } = qemuConfig.safeParse(config);
    return error?.issues.map(({ path, message }) => `${path.join(".")}: ${message}`).join("; ") ?? "";
  };
  assert.match(problem({ launcher_socket: "/shared/launcher.sock" }), /^launcher_socket: running QEMU in another/);
  assert.equal(problem({ launcher_socket: null }), "");
  const port = { hostport: 2222, guestport: 22 };
  assert.match(problem({ hostfwd: { console: port } }), /^hostfwd\.console: is the name of another child/);
  assert.equal(problem({ hostfwd: { ssh: port } }), "");
  assert.match(problem({ hostfwd: { web: { hostport: 0, guestport: 80 } } }), /^hostfwd\.web\.hostport: /);
  assert.match(problem({ hostfwd: { web: { ...port, protocol: "udp" } } }), /^hostfwd\.web\.protocol: /);
  assert.match(problem({ hostfwd: { web: { ...port, hostaddr: "1.2.3.4,guestfwd=x" } } }), /hostaddr: must be an IPv4/);
  assert.match(problem({ default_partitions: { rootfs: "/x" } }), /^default_partitions: Unrecognized key: "rootfs"/);
  assert.match(problem({ disk_size: "big" }), /^disk_size: is no size/);
  assert.match(problem({ arch: "riscv64" }), /^cpu: must be given for this arch/);
  assert.match(problem({ arch: "x;y" }), /^arch: /);
});
