import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { DeviceOffline } from "../../agent/driver/errors.ts";

/** QEMU ends at once on SIGTERM unless the host's disk hangs. */
const stopTimeoutMs = 5_000;
const stderrTailBytes = 4_096;

/** util-linux; the kernel ends QEMU with the agent, even when the agent is killed. */
const guard = "setpriv";

/** One life of a QEMU, in a process group of its own. */
export class QemuProcess {
  readonly program: string;
  readonly child: ChildProcessWithoutNullStreams;
  /** Resolves when it has ended and all that it printed was read. Never rejects. */
  readonly exited: Promise<void>;
  #stderr = "";
  #hasExited = false;

  constructor(program: string, args: readonly string[]) {
    this.program = program;
    const words = ["--pdeathsig", "SIGKILL", program, ...args];
    this.child = spawn(guard, words, { stdio: "pipe", detached: true });
    this.child.stdin.on("error", () => {});
    this.child.stderr.on("data", (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString()).slice(-stderrTailBytes);
    });
    this.exited = new Promise((resolve) => {
      this.child.once("error", (error) => {
        this.#stderr += error.message;
        this.#hasExited = true;
        resolve();
      });
      this.child.once("exit", () => (this.#hasExited = true));
      this.child.once("close", () => resolve());
    });
  }

  get hasExited(): boolean {
    return this.#hasExited;
  }

  /** It ended by itself and without complaint, as when the guest switches itself off. */
  get endedWell(): boolean {
    return this.child.exitCode === 0;
  }

  /** All that it may have said about its end. */
  get stderr(): string {
    return this.#stderr;
  }

  /** Its last lines, in one. */
  get lastWords(): string {
    return this.#stderr.trim().split("\n").slice(-3).join(" / ") || "it printed nothing";
  }

  /** `qemu-system-x86_64 died (SIGKILL): …` */
  get obituary(): string {
    return `${this.program} died (${this.child.signalCode ?? this.child.exitCode}): ${this.lastWords}`;
  }

  /** SIGTERM, on which QEMU writes what it has of its disks; SIGKILL to the whole group if that does not help. */
  async stop(): Promise<void> {
    this.child.kill("SIGTERM");
    const timer = setTimeout(() => this.kill(), stopTimeoutMs);
    await this.exited;
    clearTimeout(timer);
  }

  kill(): void {
    if (this.child.pid === undefined || this.#hasExited) return;
    try {
      process.kill(-this.child.pid, "SIGKILL");
    } catch {
      // It has gone meanwhile.
    }
  }
}

/** @throws DeviceOffline if a program or file is missing, with the Debian packages to install as the hint */
export function assertInstalled(
  what: string,
  { programs, files, debianPackages }: Record<"programs" | "files" | "debianPackages", readonly string[]>,
): void {
  const missing =
    [...programs, guard].find((name) => !isOnPath(name)) ?? files.find((file) => !isAccessible(file, constants.R_OK));
  if (missing === undefined) return;
  const hint = `apt install ${debianPackages.join(" ")}`;
  throw new DeviceOffline(`${missing} is missing, the ${what} cannot run (${hint})`, { hint });
}

export function isOnPath(program: string): boolean {
  const directories = (process.env["PATH"] ?? "").split(delimiter).filter((directory) => directory !== "");
  return directories.some((directory) => isAccessible(join(directory, program), constants.X_OK));
}

export function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
