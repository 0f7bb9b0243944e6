/** The appliance in a virtual machine with EFI firmware, whose power can be cut: the image as it is, emulated. */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export type Architecture = "amd64" | "arm64";

export interface ApplianceOptions {
  readonly architecture?: Architecture;
  /** The image as it was made; it stays as it is. */
  readonly image: string;
  /** For the disk and all else; one for each machine. */
  readonly folder: string;
  /** What is written to the FAT partition, by path: `jumpstarter.yaml`. */
  readonly files?: Readonly<Record<string, string | Buffer>>;
  /** The disk is larger than the image, as cards are. Default: 4 GiB. */
  readonly diskBytes?: number;
  /** Ports of the guest that the host reaches, and where. */
  readonly ports?: Readonly<Record<number, number>>;
  /** Further words for QEMU. */
  readonly words?: readonly string[];
}

export interface Ran {
  readonly code: number;
  /** stdout and stderr. */
  readonly text: string;
}

/** Where the FAT partition begins: scripts/image/disk.mjs. */
const bootOffset = "4M";

/**
 * A shell of root that does not come with the image: the machine's firmware hands systemd a unit with it, as a hypervisor may
 * (systemd.system-credentials(7)). A line is a command in base64; the answer is a line in base64 and one with the exit code.
 */
const shellUnit = (port: string) => `[Unit]
Description=Shell of the tests
DefaultDependencies=no
After=${port.replaceAll("/", "-").slice(1)}.device
[Service]
ExecStart=/bin/sh -c 'stty -F ${port} raw -echo; exec < ${port} > ${port}; echo ready; while read -r line; do \\
  echo "$$line" | base64 -d > /run/test-command; sh /run/test-command > /run/test-output 2>&1; code=$$?; \\
  base64 -w 0 /run/test-output; echo; echo "code $$code"; done'
Restart=always
RestartSec=1
`;

const wanted = "[Unit]\nWants=test-shell.service\n";

/** What a machine has: its program, firmware and second serial port. */
const machines = {
  amd64: {
    program: "qemu-system-x86_64",
    words: ["-M", "q35,i8042=off", "-cpu", "max"],
    firmware: ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"],
    shell: { device: "isa-serial", port: "/dev/ttyS1" },
  },
  arm64: {
    program: "qemu-system-aarch64",
    words: ["-M", "virt", "-cpu", "cortex-a53"],
    firmware: ["/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"],
    // The first one is a PL011, ttyAMA0. On a virtio console systemd starts a login of its own.
    shell: { device: "pci-serial", port: "/dev/ttyS0" },
  },
} as const;

export class ApplianceVm {
  readonly #options: ApplianceOptions;
  readonly #disk: string;
  #child: ChildProcess | undefined;
  #shells: Server | undefined;
  #socket: Socket | undefined;
  #said = "";
  #console = "";
  #startsSeen = 0;

  /** Makes its disk: the image, with files on its FAT partition, on a larger disk. */
  constructor(options: ApplianceOptions) {
    this.#options = options;
    const { folder, image, files = {}, diskBytes = 4 * 2 ** 30 } = options;
    mkdirSync(folder, { recursive: true });
    const base = join(folder, "base.img");
    must("cp", ["--sparse=always", "--reflink=auto", image, base]);
    for (const [path, content] of Object.entries(files)) {
      const file = join(folder, "file");
      writeFileSync(file, content);
      if (dirname(path) !== ".")
        spawnSync("mmd", ["-i", `${base}@@${bootOffset}`, `::/${dirname(path)}`], { stdio: "ignore" });
      must("mcopy", ["-o", "-i", `${base}@@${bootOffset}`, file, `::/${path}`]);
    }
    // What is new in it and was not flushed is lost with QEMU, as with a real disk: qcow2 keeps the places in memory until then.
    this.#disk = join(folder, "disk.qcow2");
    must("qemu-img", ["create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", this.#disk, String(diskBytes)]);
    cpSync(this.#machine.firmware[1], join(folder, "variables.fd"));
  }

  get #machine() {
    return machines[this.#options.architecture ?? "amd64"];
  }

  /** What came over the serial console since the last start, without colours. */
  get console(): string {
    return this.#console.replace(/\p{Cc}\[[0-9;=?]*[A-Za-z]/gu, "").replaceAll("\r", "");
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Turns it on. */
  async start(): Promise<void> {
    const { folder, ports = {}, words = [] } = this.#options;
    const { program, firmware, shell } = this.#machine;
    this.#console = "";
    this.#said = "";
    this.#startsSeen = 0;
    const path = join(folder, "shell");
    rmSync(path, { force: true });
    this.#shells = createServer((socket) => {
      this.#socket = socket;
      socket.setEncoding("latin1").on("data", (text: string) => (this.#said += text));
      socket.on("error", () => {});
    }).listen(path);
    await once(this.#shells, "listening");
    const forwards = Object.entries(ports).map(([guest, host]) => `,hostfwd=tcp:127.0.0.1:${host}-:${guest}`);
    const credential = (name: string, text: string) => [
      "-smbios",
      `type=11,value=io.systemd.credential.binary:${name}=${Buffer.from(text).toString("base64")}`,
    ];
    const child = spawn(
      "setpriv",
      [
        ...[
          "--pdeathsig",
          "KILL",
          program,
          "-accel",
          "tcg,thread=multi",
          ...this.#machine.words,
          "-smp",
          "1",
          "-m",
          "1024",
        ],
        ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"],
        ...["-drive", `if=pflash,format=raw,unit=0,readonly=on,file=${firmware[0]}`],
        ...["-drive", `if=pflash,format=raw,unit=1,file=${join(folder, "variables.fd")}`],
        ...["-drive", `if=none,id=disk,format=qcow2,cache=writeback,file=${this.#disk}`],
        ...["-device", "virtio-blk-pci,drive=disk,bootindex=0", "-device", "virtio-rng-pci"],
        ...["-netdev", `user,id=net${forwards.join("")}`, "-device", "virtio-net-pci,netdev=net,romfile="],
        ...["-chardev", `socket,id=shell,path=${path}`, "-device", `${shell.device},chardev=shell`],
        ...credential("systemd.extra-unit.test-shell.service", shellUnit(shell.port)),
        ...credential("systemd.unit-dropin.sysinit.target~test", wanted),
        ...words,
      ],
      { stdio: ["ignore", "pipe", "pipe"] },
    );
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => (this.#console += chunk.toString("latin1")));
    }
    this.#child = child;
  }

  /** Cuts the power. */
  async cut(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    this.#shells?.close();
    this.#socket?.destroy();
    this.#socket = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "close");
  }

  /** Waits until it has turned itself off or started anew, which ends QEMU only with `-no-reboot` in `words`. */
  async ended(limitMs: number): Promise<void> {
    await until(
      () => !this.isRunning,
      limitMs,
      () => `the machine runs on:\n${this.console.slice(-3000)}`,
    );
  }

  /** Overwrites bytes of its disk, while it is off. @param places offset and length of each, in bytes */
  spoil(places: readonly (readonly [number, number])[]): void {
    const writes = places.flatMap(([offset, length]) => ["-c", `write -q -P 0xa5 ${offset} ${length}`]);
    must("qemu-io", ["-f", "qcow2", ...writes, this.#disk]);
  }

  /** Waits for the next time that GRUB starts a system since the power was turned on; a host may also start anew by itself. */
  async systemStarted(limitMs: number): Promise<{ slot: string; as: string }> {
    const [, slot = "", as = ""] = await this.#until(
      () => [...this.console.matchAll(/Starting system (\w) \((\w+)\)/g)][this.#startsSeen],
      limitMs,
      "GRUB to start a system",
    );
    this.#startsSeen += 1;
    // The shell of before is gone, and the next one is long in coming.
    this.#said = "";
    return { slot, as };
  }

  /** Waits for something on the serial console since the last start. */
  async see(pattern: RegExp, limitMs: number): Promise<RegExpExecArray> {
    return await this.#until(
      () => pattern.exec(this.console) ?? undefined,
      limitMs,
      `${String(pattern)} on the console`,
    );
  }

  /** Runs a shell script as root. It waits for the system to come up. */
  async run(script: string, limitMs = 120_000): Promise<Ran> {
    await this.#until(() => this.#said.includes("ready"), limitMs, "the tests' shell");
    const before = this.#said.length;
    this.#socket?.write(`${Buffer.from(script).toString("base64")}\n`);
    return await this.#until(
      () => {
        const [, text = "", code] = /^([A-Za-z0-9+/=]*)\r?\ncode (\d+)\r?\n/.exec(this.#said.slice(before)) ?? [];
        return code === undefined ? undefined : { code: Number(code), text: Buffer.from(text, "base64").toString() };
      },
      limitMs,
      `the end of: ${script}`,
    );
  }

  /** The same, for a script that must succeed. @returns what it has printed */
  async must(script: string, limitMs?: number): Promise<string> {
    const { code, text } = await this.run(script, limitMs);
    if (code !== 0) throw new Error(`${script}\nended with ${code}:\n${text}`);
    return text;
  }

  async #until<T>(look: () => T | undefined | false, limitMs: number, what: string): Promise<T> {
    const end = () => `${this.isRunning ? "in vain" : "the machine has ended"}:\n${this.console.slice(-3000)}`;
    return await until(
      () => {
        if (!this.isRunning) throw new Error(`waiting for ${what}: ${end()}`);
        return look();
      },
      limitMs,
      () => `waited ${limitMs} ms for ${what}: ${end()}`,
    );
  }
}

async function until<T>(look: () => T | undefined | false, limitMs: number, complain: () => string): Promise<T> {
  for (const end = performance.now() + limitMs; ; await sleep(50)) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(complain());
  }
}

function must(program: string, words: string[]): void {
  const { status, stderr, error } = spawnSync(program, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${words.join(" ")}: ${error?.message ?? stderr}`);
}

/** Why such a machine cannot be had here, or false. */
export function missingMachine(architecture: Architecture): string | false {
  const { program, firmware } = machines[architecture];
  const present = (name: string) =>
    (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(join(folder, name)));
  const missing = [
    ...[program, "mcopy", "qemu-img", "qemu-io"].filter((name) => !present(name)),
    ...firmware.filter((file) => !existsSync(file)),
  ];
  return missing.length > 0 && `needs ${missing.join(", ")}`;
}
