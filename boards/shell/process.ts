import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:os";
import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";

export type Output = [stdout: string, stderr: string, code: number | null];

/** Between SIGTERM and SIGKILL. */
const graceMs = 5_000;
const pollMs = 50;

/**
 * How long we listen in all to a finished script's pipes, and how much we take: a daemon that it left may hold them open, and
 * talk for ever. The script's own last words fit into a pipe, which has 1 MiB at most.
 */
const drainMs = 2_000;
const drainChars = 2 * 1024 * 1024;

/** Pieces of output that wait for a slow client before the script is made to wait. */
const queueLimit = 16;

export interface Running {
  readonly argv: readonly [string, ...string[]];
  readonly cwd: string | undefined;
  readonly env: NodeJS.ProcessEnv;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Told of a group that is being ended; resolves when it is. */
  readonly onEnding: (ended: Promise<void>) => void;
}

/** Thrown after all output when the time is up; the process group is being killed. */
export class TimeoutExpired extends Error {}

/**
 * Runs a program in a process group of its own, without stdin. Yields output as it comes and the exit code last
 * (minus the signal's number if one ended it). Leaving the loop or aborting the signal ends the whole group.
 * @throws AgentError E_CANCELLED; TimeoutExpired; the system's error if it cannot be started
 */
export async function* run({
  argv: [file, ...args],
  cwd,
  env,
  timeoutMs,
  signal,
  onEnding,
}: Running): AsyncGenerator<Output> {
  signal.throwIfAborted();
  const child = spawn(file, args, { cwd, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  await once(child, "spawn");
  const output = listen(child);
  let stopped: "cancelled" | "timeout" | undefined;
  const stop = (why: "cancelled" | "timeout") => {
    stopped ??= why;
    onEnding(endGroup(child));
    output.wake();
  };
  const cancel = () => stop("cancelled");
  signal.addEventListener("abort", cancel, { once: true });
  const timer = setTimeout(() => stop("timeout"), timeoutMs);
  try {
    for (;;) {
      const piece = output.next();
      if (stopped === "cancelled") throw new AgentError("E_CANCELLED", "the script was cancelled");
      if (piece !== undefined) yield piece;
      else if (output.ended) break;
      else await output.more();
    }
    if (stopped === "timeout") throw new TimeoutExpired();
    yield ["", "", exitCode(child)];
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", cancel);
    if (!hasExited(child) && stopped === undefined) onEnding(endGroup(child));
    output.close();
  }
}

type Child = ChildProcessByStdio<null, Readable, Readable>;

const hasExited = (child: Child) => child.exitCode !== null || child.signalCode !== null;

function exitCode({ exitCode: code, signalCode }: Child): number {
  return code ?? (signalCode === null ? -1 : -constants.signals[signalCode]);
}

/** Collects both pipes, whole characters only, and holds the script up while nobody takes the pieces. */
function listen(child: Child) {
  const pipes = [child.stdout, child.stderr] as const;
  const pieces: Output[] = [];
  let open: number = pipes.length;
  let wake = () => {};
  const drained = { ms: 0, chars: 0 };
  const add = (index: number, text: string) => {
    if (hasExited(child)) drained.chars += text.length;
    if (drained.chars > drainChars) close();
    if (text !== "") pieces.push(index === 0 ? [text, "", null] : ["", text, null]);
    if (pieces.length >= queueLimit) for (const pipe of pipes) pipe.pause();
    wake();
  };
  for (const [index, pipe] of pipes.entries()) {
    const decoder = new StringDecoder("utf8");
    pipe.on("data", (chunk: Buffer) => add(index, decoder.write(chunk)));
    pipe.on("error", () => {});
    pipe.once("close", () => {
      open -= 1;
      add(index, decoder.end());
    });
  }
  child.once("exit", () => wake());
  const close = () => {
    for (const pipe of pipes) pipe.destroy();
  };
  return {
    next(): Output | undefined {
      const piece = pieces.shift();
      if (pieces.length < queueLimit) for (const pipe of pipes) pipe.resume();
      return piece;
    },
    get ended(): boolean {
      return open === 0 && hasExited(child) && pieces.length === 0;
    },
    /** Resolves when something changed. A finished script whose pipes stay open is let go. */
    async more(): Promise<void> {
      const began = hasExited(child) ? performance.now() : undefined;
      const timer = began === undefined ? undefined : setTimeout(close, drainMs - drained.ms);
      await new Promise<void>((resolve) => (wake = resolve));
      clearTimeout(timer);
      if (began !== undefined) drained.ms += performance.now() - began;
    },
    wake: () => wake(),
    close,
  };
}

/** SIGTERM to the group now; SIGKILL after a while for those who did not listen, also when their leader did. */
async function endGroup(child: Child): Promise<void> {
  const kill = (name: NodeJS.Signals | 0) => {
    try {
      return process.kill(-(child.pid as number), name);
    } catch {
      return false; // all of them have gone
    }
  };
  kill("SIGTERM");
  for (const began = performance.now(); kill(0) && performance.now() - began < graceMs;) await sleep(pollMs);
  kill("SIGKILL");
}
