/** A virtual machine with a kernel of Debian that runs programs of the host: its files are the host's own, read-only. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  accessSync,
  constants,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Socket } from "node:net";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { cacheDirectory } from "../../scripts/bundle/debian.mjs";
import { readMessages, type FromGuest, type FromHost } from "./messages.ts";
import { Qmp } from "./qmp.ts";

/** A guest takes 2 s to start its first process, and 10 s when it is emulated on a busy host. */
const startLimitMs = { kvm: 10_000, tcg: 120_000 };

export interface Machine {
  /** Seconds from power on to the first process of ours. */
  readonly startS: number;
  readonly accelerator: "kvm" | "tcg";
  /** Runs a bundled test file in the guest until it ends. */
  run(file: string, timeoutMs: number, take: (message: FromGuest) => void): Promise<Ended>;
  /** Cuts the power. */
  stop(): Promise<void>;
}

export type Ended = Extract<FromGuest, { type: "ended" }>;

/** A folder that is /run/vm in the guest. It goes with this process, however that ends. */
export function sharedFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), "jmp-agent-kernel-"));
  const remains = spawn("sh", ["-c", 'cat > /dev/null; rm -rf "$1"', "sh", path], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  remains.unref();
  // Packages are found above the bundles.
  symlinkSync(resolve("node_modules"), join(path, "node_modules"));
  return { path, remove: () => (remains.stdin.end(), rmSync(path, { recursive: true, force: true })) };
}

/** Boots it with KVM if that works here, else emulated. `folder` is a sharedFolder with guest-main.js. */
export async function boot(kernel: string, folder: string): Promise<Machine> {
  // A host that is virtual itself may have a KVM that runs no such kernel: only trying tells, and once is enough.
  const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  const failure = join(cacheDirectory(), `kvm-fails-${bootId}`);
  if (isWritable("/dev/kvm") && !existsSync(failure)) {
    try {
      return await bootWith("kvm", kernel, folder);
    } catch {
      writeFileSync(failure, "");
    }
  }
  return await bootWith("tcg", kernel, folder);
}

async function bootWith(accelerator: "kvm" | "tcg", kernel: string, folder: string): Promise<Machine> {
  const began = performance.now();
  writeFileSync(join(folder, "start"), start(kernel, folder));
  const controlPath = join(folder, "control");
  const server = createServer().listen(controlPath);
  await once(server, "listening");
  const child = spawn("setpriv", ["--pdeathsig", "KILL", "qemu-system-x86_64", ...words(accelerator, kernel, folder)], {
    stdio: "pipe",
  });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const qmp = new Qmp(child.stdin, child.stdout);
  const died = once(child, "close").then(() => {
    throw new Error(`the virtual machine has ended: ${said}\n${kernelLog(folder)}`);
  });
  died.catch(() => {});
  const stop = async () => {
    server.close();
    await stopped(child);
  };

  let take: (message: FromGuest) => void = () => {};
  const ready = (async () => {
    const [socket] = (await once(server, "connection")) as [Socket];
    socket.on("error", () => {});
    const send = (message: FromHost) => socket.write(JSON.stringify(message) + "\n");
    await new Promise<void>((resolve) => {
      const receive = readMessages<FromGuest>((message) => {
        if (message.type === "ready") return resolve();
        if (message.type !== "qmp") return take(message);
        const { id, command, args } = message;
        void qmp.execute(command, args).then(
          (result) => send({ type: "qmp", id, result }),
          (error: Error) => send({ type: "qmp", id, error: error.message }),
        );
      });
      socket.on("data", receive);
    });
    return send;
  })();
  const limitMs = startLimitMs[accelerator];
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(
        new Error(`the virtual machine (${accelerator}) is not up after ${limitMs / 1000} s: ${kernelLog(folder)}`),
      );
    }, limitMs);
  });
  try {
    const send = await Promise.race([ready, died, late]);
    const run: Machine["run"] = async (file, timeoutMs, forward) => {
      const ended = new Promise<Ended>((resolve) => {
        take = (message) => (message.type === "ended" ? resolve(message) : forward(message));
      });
      send({ type: "run", file, timeoutMs });
      return await Promise.race([ended, died]);
    };
    return { accelerator, startS: (performance.now() - began) / 1000, run, stop };
  } catch (error) {
    await stop();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function words(accelerator: "kvm" | "tcg", kernel: string, folder: string): string[] {
  const shared = (tag: string, path: string, more: string) => [
    ...["-fsdev", `local,id=${tag},path=${path},security_model=none,multidevs=remap${more}`],
    ...["-device", `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`],
  ];
  const append =
    "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off random.trust_cpu=1 no_timer_check audit=0 apparmor=0 " +
    // A stick is there at once, not a second later.
    "usb-storage.delay_use=0";
  return [
    ...["-accel", accelerator === "tcg" ? "tcg,thread=multi" : "kvm", "-cpu", accelerator === "tcg" ? "max" : "host"],
    // A second processor costs an emulated machine more than it gives.
    ...["-M", "q35", "-smp", "1", "-m", "1024", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ...["-kernel", join(kernel, "vmlinux"), "-initrd", join(kernel, "initramfs"), "-append", append],
    ...["-qmp", "stdio", "-serial", `file:${join(folder, "kernel.log")}`],
    ...shared("root", "/", ",readonly=on"),
    ...shared("work", folder, ""),
    ...["-device", "virtio-rng-pci", "-device", "virtio-serial-pci,id=ports"],
    ...["-chardev", `socket,id=control,path=${join(folder, "control")}`],
    ...["-device", "virtserialport,bus=ports.0,chardev=control,name=control"],
    ...["-device", "qemu-xhci,id=usb"],
    ...["-object", "can-bus,id=can", "-device", "kvaser_pci,canbus=can", "-device", "kvaser_pci,canbus=can"],
    // A slot without a card.
    ...["-device", "sdhci-pci,id=sd", "-drive", "if=none,id=card", "-device", "sd-card,drive=card"],
  ];
}

/** What says where things are, and how strict tests are. */
const passedOn = ["XDG_CACHE_HOME", "JMP_PYTHON_CLIENTS", "CI"]
  .flatMap((name) => (process.env[name] === undefined ? [] : [`export ${name}='${process.env[name]}'`]))
  .join("\n");

/** The guest's first script, as root; /run/vm is the shared folder. */
const start = (kernel: string, folder: string) => `
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME='${homedir()}' LANG=C.UTF-8
export VM_FOLDER_ON_HOST='${folder}'
${passedOn}
mkdir -p /usr/lib/modules /dev/pts /dev/shm
mount --bind '${kernel}/modules' /usr/lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ip link set lo up
# Without udev nobody else looks for a new medium.
echo 500 > /sys/module/block/parameters/events_dfl_poll_msecs
modprobe configfs
mount -t configfs configfs /sys/kernel/config
mount -t debugfs debugfs /sys/kernel/debug
cd '${process.cwd()}'
'${process.execPath}' /run/vm/guest-main.js > /dev/ttyS0 2>&1
echo o > /proc/sysrq-trigger
sleep 60
`;

function kernelLog(folder: string): string {
  const path = join(folder, "kernel.log");
  return existsSync(path) ? readFileSync(path, "utf8").slice(-4096) : "";
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

async function stopped(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "close");
}
