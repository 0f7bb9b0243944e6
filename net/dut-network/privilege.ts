import { spawn, type ChildProcessByStdio } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";

/** linux/capability.h; what the tools of a network need. */
const CAP_NET_BIND_SERVICE = 10;
const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;

/** `ip` and `nft` answer in milliseconds; a rule with thousands of entries on a slow board in seconds. */
const timeoutMs = 20_000;
const outputLimitChars = 4 * 1024 * 1024;

export type Child = ChildProcessByStdio<Writable, Readable, Readable>;

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts the system's tools with the rights they need: our own, or those of `sudo -n`, which never asks and hangs. */
export class Privileged {
  /** True if tools have the rights already. */
  readonly direct = mayAdministerNetworks();

  /** A running tool, in a group of its own so that a terminal's Ctrl+C does not end it before us. */
  spawn([program, ...args]: readonly [string, ...string[]]): Child {
    const path = findTool(program) ?? program;
    const [file, words] = this.direct ? [path, args] : [findTool("sudo") ?? "sudo", ["-n", path, ...args]];
    const child = spawn(file, words, { detached: true, stdio: "pipe", env: { ...process.env, LC_ALL: "C" } });
    child.stdin.on("error", () => {});
    return child;
  }

  /** Runs a tool to its end, whatever that is. */
  async attempt(argv: readonly [string, ...string[]], input = ""): Promise<Finished> {
    const child = this.spawn(argv);
    let [stdout, stderr] = ["", ""];
    child.stdout
      .setEncoding("utf8")
      .on("data", (text: string) => (stdout = (stdout + text).slice(0, outputLimitChars)));
    child.stderr
      .setEncoding("utf8")
      .on("data", (text: string) => (stderr = (stderr + text).slice(0, outputLimitChars)));
    const timer = setTimeout(() => void this.kill(child.pid, "SIGKILL"), timeoutMs);
    child.stdin.end(input);
    const code = await new Promise<number | null>((resolve) => {
      child.once("error", (error) => ((stderr += error.message), resolve(null)));
      child.once("close", resolve);
    });
    clearTimeout(timer);
    return { code, stdout, stderr };
  }

  /** Runs a tool. @returns what it printed. @throws AgentError E_FAILED with Python's words and the tool's own */
  async run(argv: readonly [string, ...string[]], input = ""): Promise<string> {
    const finished = await this.attempt(argv, input);
    if (finished.code === 0) return finished.stdout;
    throw this.#failure(argv, finished);
  }

  /** The same for a tool that may say that there is nothing. @returns undefined if it fails with such words */
  async runUnless(nothing: RegExp, argv: readonly [string, ...string[]]): Promise<string | undefined> {
    const finished = await this.attempt(argv);
    if (finished.code === 0) return finished.stdout;
    if (nothing.test(finished.stderr)) return undefined;
    throw this.#failure(argv, finished);
  }

  #failure(argv: readonly string[], { code, stderr }: Finished): AgentError {
    const words = argv.map((word) => `'${word}'`).join(", ");
    return new AgentError(
      "E_FAILED",
      `Command '[${words}]' returned non-zero exit status ${code ?? -1}. ${stderr.trim()}`.trim(),
      {
        hint: this.direct
          ? undefined
          : "the agent needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE, or a rule in sudoers with NOPASSWD",
      },
    );
  }

  /** @returns false if there is no such process */
  async kill(pid: number | undefined, signal: NodeJS.Signals): Promise<boolean> {
    if (pid === undefined || pid <= 1) return false;
    try {
      return process.kill(pid, signal);
    } catch (error) {
      if (!isSystemError(error) || error.code !== "EPERM" || this.direct) return false;
      const { code } = await this.attempt(["kill", "-s", signal.slice("SIG".length), String(pid)]);
      return code === 0;
    }
  }
}

/** The path of a program; those of the administrator need not be on our PATH. */
export function findTool(name: string): string | undefined {
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return directories
    .filter((directory) => directory !== "")
    .map((directory) => join(directory, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** Root, or a service whose children inherit the three capabilities (systemd: AmbientCapabilities=). */
function mayAdministerNetworks(): boolean {
  if (process.geteuid?.() === 0) return true;
  const ambient = /^CapAmb:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1] ?? "0";
  const has = (capability: number) => (BigInt(`0x${ambient}`) >> BigInt(capability)) & 1n;
  return [CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW].every((capability) => has(capability) === 1n);
}
