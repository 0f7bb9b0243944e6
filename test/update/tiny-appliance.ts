/**
 * An appliance that starts in seconds: a disk as the image has it, with the real GRUB, its real script and a real kernel, whose systems are a
 * busybox and this agent. Each system has a script of its own, `act`, and runs what the test orders.
 */
import { execFileSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { cpio } from "../../scripts/bundle/cpio.mjs";
import { unpackPackages } from "../../scripts/bundle/debian.mjs";
import { modulesOf } from "../../scripts/bundle/initramfs.mjs";

const mib = 2 ** 20;
/** As the image's, in MiB, but smaller. */
const layout = [
  { name: "esp", start: 1, size: 64 },
  { name: "root-a", start: 65, size: 8 },
  { name: "root-b", start: 73, size: 8 },
  { name: "state", start: 81, size: 16 },
] as const;

/** Where the boot partition is in the disk, as mtools name it. */
export const bootOf = (disk: string) => `${disk}@@${layout[0].start * mib}`;

const init = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec > /dev/ttyS0 2>&1 < /dev/null
echo 3 > /proc/sys/kernel/printk
for module in /modules/*; do insmod $module; done
for word in $(cat /proc/cmdline); do
  case $word in
  jumpstarter.slot=*) slot=\${word#*=} ;;
  jumpstarter.boot=*) boot=\${word#*=} ;;
  esac
done
case $slot in a) root=/dev/vda2 ;; b) root=/dev/vda3 ;; esac
mount -t squashfs -o ro $root /system || { echo "ROOT OF $slot IS NO SQUASHFS"; reboot -f; }
mount -t squashfs -o ro /dev/vdb /tools
mount -t ext4 /dev/vda4 /tools/state || { mke2fs -q /dev/vda4; mount -t ext4 /dev/vda4 /tools/state; }
for folder in proc sys dev; do mount --bind /$folder /tools/$folder; done
mount -t tmpfs tmp /tools/tmp
mount --bind /system/os-release /tools/usr/lib/os-release
mount -t vfat -o ro /dev/vda1 /tools/boot
echo "STARTED $(cat /system/version) IN $slot AS $boot"
export STATE_DIRECTORY=/state PATH=/bin HOME=/tmp
mount -t squashfs -o ro /dev/vdd /tools/updates
cat /dev/vdc | tr -d '\\000' > /tools/tmp/orders
. /system/act
echo "IDLE"
sleep 3600
`;

const modules = ["virtio_pci", "virtio_blk", "squashfs", "ext4", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1"];

/** What all appliances of a test file share; made once, as packing it takes seconds. */
export interface Parts {
  readonly kernel: string;
  readonly initrd: string;
  /** The agent and its Node, as a disk. */
  readonly tools: string;
}

/** @param folder where they are put */
export function makeParts(folder: string): Parts {
  const packages = unpackPackages({ kernel: "linux-image-cloud-amd64*", busybox: "busybox-static" }, "amd64");
  const busybox = join(packages.busybox, "bin/busybox");
  const [kernelName = ""] = readdirSync(join(packages.kernel, "boot")).filter((name) => name.startsWith("vmlinuz-"));
  const kernel = join(folder, "vmlinuz");
  cpSync(join(packages.kernel, "boot", kernelName), kernel);
  const initrd = join(folder, "initrd");
  const folders = ["bin", "dev", "modules", "proc", "sys", "system", "tools"];
  writeFileSync(
    initrd,
    gzipSync(
      cpio([
        ...folders.map((path) => ({ path })),
        { path: "bin/busybox", content: readFileSync(busybox), mode: 0o755 },
        { path: "init", content: init, mode: 0o755 },
        ...modulesOf(packages.kernel, modules).map(({ name, content }, index) => ({
          path: `modules/${String(index).padStart(2, "0")}-${name}.ko`,
          content,
        })),
      ]),
      { level: 1 },
    ),
  );
  return { kernel, initrd, tools: makeTools(folder, busybox) };
}

function makeTools(folder: string, busybox: string): string {
  const tree = join(folder, "tools");
  for (const name of [
    "bin",
    "boot",
    "dev",
    "proc",
    "state",
    "sys",
    "tmp",
    "updates",
    "usr/lib",
    "agent/node_modules",
  ]) {
    mkdirSync(join(tree, name), { recursive: true });
  }
  cpSync(busybox, join(tree, "bin/busybox"));
  for (const applet of ["mount", "umount"]) symlinkSync("busybox", join(tree, "bin", applet));
  writeFileSync(join(tree, "usr/lib/os-release"), "");
  const take = (path: string) => {
    mkdirSync(join(tree, dirname(path)), { recursive: true });
    cpSync(path, join(tree, path), { dereference: true });
  };
  const native = "node_modules/@koromix/koffi-linux-x64";
  const libraries = execFileSync("ldd", [process.execPath], { encoding: "utf8" }).matchAll(/(\/\S+) \(/g);
  for (const [, path = ""] of libraries) take(path);
  cpSync(process.execPath, join(tree, "bin/node"), { dereference: true });
  for (const path of ["node_modules/koffi", native]) {
    const filter = (from: string) => !/koffi\/(vendor|doc)(\/|$)/.test(from);
    cpSync(path, join(tree, "agent", path), { recursive: true, filter });
  }
  cpSync("dist", join(tree, "agent/dist"), { recursive: true, filter: (from) => !from.endsWith(".map") });
  writeFileSync(join(tree, "agent/package.json"), '{ "type": "module" }\n');
  return squashfs(tree, join(folder, "tools.squashfs"), "lz4");
}

export function squashfs(tree: string, output: string, packer = "zstd"): string {
  rmSync(output, { force: true });
  execFileSync("mksquashfs", [tree, output, "-noappend", "-quiet", "-no-progress", "-comp", packer], { stdio: "pipe" });
  return output;
}

/** Runs `jmp-agent` as root in the guest; for scripts of systems. */
export const agent = (words: string) => `chroot /tools /bin/node /agent/dist/jmp-agent.js ${words}`;

/** The root of a system. @param act what it does when it is started; by default what is ordered */
export function makeRoot(folder: string, version: string, act = ". /tools/tmp/orders"): string {
  const tree = join(folder, `root-${version}`);
  mkdirSync(tree, { recursive: true });
  writeFileSync(join(tree, "version"), version);
  writeFileSync(join(tree, "os-release"), `IMAGE_ID=tiny\nIMAGE_VERSION=${version}\n`);
  writeFileSync(join(tree, "act"), act);
  // Something that takes a moment to be written, and cannot be packed.
  execFileSync("sh", ["-c", 'head -c 6000000 /dev/urandom > "$1"', "sh", join(tree, "ballast")]);
  return squashfs(tree, join(folder, `root-${version}.squashfs`));
}

/** What GRUB is built of. */
const grub = "/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi";
export const programs = [
  "qemu-system-x86_64",
  "/usr/share/OVMF/OVMF_CODE_4M.fd",
  grub,
  "mcopy",
  "mkfs.vfat",
  "mksquashfs",
];

/** A disk with `root` in slot a, and nothing in slot b. */
export function makeDisk(folder: string, name: string, parts: Parts, root: string): string {
  const disk = join(folder, name);
  writeFileSync(disk, "");
  truncateSync(disk, 98 * mib);
  const sectors = (size: number) => (size * mib) / 512;
  const table = layout.map(
    ({ name, start, size }) => `start=${sectors(start)}, size=${sectors(size)}, name="${name}", ${typeOf(name)}`,
  );
  execFileSync("/usr/sbin/sfdisk", ["--quiet", disk], {
    input: `label: gpt\n${table.join("\n")}\n`,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const tree = join(folder, `${name}.boot`);
  for (const path of ["EFI/BOOT", "EFI/debian", "grub", "slots/a", "slots/b"])
    mkdirSync(join(tree, path), { recursive: true });
  cpSync(grub, join(tree, "EFI/BOOT/BOOTX64.EFI"));
  cpSync("image/grub-start.cfg", join(tree, "EFI/debian/grub.cfg"));
  cpSync("image/grub.cfg", join(tree, "grub/grub.cfg"));
  const state = "# GRUB Environment Block\nslot=a\ntrial=\ntries=\ninvalid=\n".padEnd(1024, "#");
  for (const file of ["grubenv", "grubenv.safe"]) writeFileSync(join(tree, "grub", file), state);
  cpSync(parts.kernel, join(tree, "slots/a/vmlinuz"));
  cpSync(parts.initrd, join(tree, "slots/a/initrd"));
  const fat = join(folder, `${name}.fat`);
  writeFileSync(fat, "");
  truncateSync(fat, layout[0].size * mib);
  execFileSync("/usr/sbin/mkfs.vfat", ["-F", "32", "-n", "JUMPSTART", fat], { stdio: "pipe" });
  execFileSync("mcopy", ["-s", "-Q", "-i", fat, ...readdirSync(tree).map((top) => join(tree, top)), "::/"]);
  put(fat, disk, layout[0].start);
  put(root, disk, layout[1].start);
  rmSync(tree, { recursive: true });
  rmSync(fat);
  return disk;
}

const typeOf = (name: string) => (name === "esp" ? "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B" : "type=linux");

function put(file: string, disk: string, startMib: number): void {
  execFileSync("dd", [`if=${file}`, `of=${disk}`, "bs=1M", `seek=${startMib}`, "conv=notrunc,sparse", "status=none"]);
}

/** Writes a script for the guest, padded to whole sectors; it may be changed while the machine runs, for its next start. */
export function writeOrders(path: string, script: string): void {
  const bytes = Buffer.alloc(4096);
  bytes.write(`${script}\n`);
  writeFileSync(path, bytes);
}
