/** A virtual machine with EFI firmware, whose power can be cut. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cpSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";

export interface VirtualMachine {
  /** All that has come from the serial port until now. */
  readonly output: string;
  /** Waits for a line of the guest after those that were seen before. @returns what the pattern found */
  see(pattern: RegExp, limitMs?: number): Promise<RegExpExecArray>;
  /** Cuts the power: what the guest has not written is lost. */
  cut(): Promise<void>;
}

export interface Disks {
  /** What it starts from. */
  readonly disk: string;
  /** Read-only: /dev/vdb, /dev/vdc, … */
  readonly more: readonly string[];
  /** For the firmware's variables. */
  readonly folder: string;
}

/** Starts it, emulated: it is the same everywhere, and fast enough. */
export function start({ disk, more, folder }: Disks): VirtualMachine {
  const variables = `${folder}/variables.fd`;
  cpSync("/usr/share/OVMF/OVMF_VARS_4M.fd", variables);
  const drive = (file: string, options: string) => ["-drive", `if=virtio,format=raw,file=${file}${options}`];
  const child = spawn(
    "setpriv",
    [
      ...[
        "--pdeathsig",
        "KILL",
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "Nehalem",
        "-M",
        "q35",
        "-m",
        "512",
      ],
      ...["-nodefaults", "-no-user-config", "-display", "none", "-net", "none", "-serial", "stdio"],
      ...["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"],
      ...["-drive", `if=pflash,format=raw,file=${variables}`],
      ...drive(disk, ""),
      ...more.flatMap((file) => drive(file, ",readonly=on")),
      ...["-device", "virtio-rng-pci"],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  return watched(child);
}

function watched(child: ChildProcess): VirtualMachine {
  let output = "";
  let seen = 0;
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => (output += chunk.toString("latin1")));
  const closed = once(child, "close");
  return {
    get output() {
      return output;
    },
    async see(pattern, limitMs = 300_000) {
      for (const deadlineMs = performance.now() + limitMs; ; await sleep(20)) {
        const found = pattern.exec(output.slice(seen));
        if (found !== null) {
          seen += found.index + found[0].length;
          return found;
        }
        const why =
          child.exitCode !== null
            ? "the machine has ended"
            : performance.now() > deadlineMs
              ? "it did not come"
              : undefined;
        if (why !== undefined) throw new Error(`${String(pattern)}: ${why}:\n${printable(output.slice(-3000))}`);
      }
    },
    async cut() {
      child.kill("SIGKILL");
      await closed;
    },
  };
}

const printable = (text: string) => stripVTControlCharacters(text).replaceAll(/[^\n -~]/g, "");
