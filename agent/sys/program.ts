import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, statSync } from "node:fs";
import { basename, delimiter, join } from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../driver/errors.ts";

/** util-linux; ends a program with us even if we are killed. */
const setpriv = "/usr/bin/setpriv";

/** Between SIGTERM and SIGKILL. */
const usualGraceMs = 5_000;
const pollMs = 20;

/** A finished program's pipes may be held open by what it left behind. */
const drainMs = 500;

const lastWordsChars = 4_096;

/** Names in the agent's own environment whose values are nobody's business but its own. */
const secret = /TOKEN|PASSPHRASE|PASSWORD|SECRET|CREDENTIAL|^NOTIFY_SOCKET$/i;

/** An environment that a program may have. */
export function withoutSecrets(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !secret.test(name)));
}

/** Where a program lies: a path as it is given, a name as PATH has it. Undefined if nothing there can be executed. */
export function findProgram(name: string, path = process.env["PATH"] ?? ""): string | undefined {
  const places = name.includes("/")
    ? [name]
    : path
        .split(delimiter)
        .filter((directory) => directory !== "")
        .map((directory) => join(directory, name));
  return places.find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** How a program ended. */
export interface Exit {
  /** Null if a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export function describeExit({ code, signal }: Exit): string {
  return signal === null ? `exit ${code}` : signal;
}

/** A running program in a process group of its own. */
export interface Program {
  readonly pid: number;
  readonly stdout: Readable;
  /** What it printed last on stderr, up to 4096 characters. */
  lastWords(): string;
  /** Resolves when it has ended and its pipes are read. Never rejects. */
  readonly ended: Promise<Exit>;
  /** SIGTERM to the group; SIGKILL for those who do not listen. Resolves when the group has gone. */
  end(): Promise<void>;
}

/**
 * Starts a program without stdin that does not outlive us, however we end. Read or resume its stdout.
 * @throws the system's error (ENOENT, EACCES) if it cannot be started
 */
export async function startProgram(
  [file, ...args]: readonly [string, ...string[]],
  env: NodeJS.ProcessEnv,
  graceMs = usualGraceMs,
): Promise<Program> {
  const found = findProgram(file, env["PATH"]);
  // Of a program that is not there, setpriv would speak in its own words.
  const [program, words] =
    found !== undefined && isExecutable(setpriv)
      ? [setpriv, ["--pdeathsig", "KILL", "--", found, ...args]]
      : [file, args];
  const child = spawn(program, words, { env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  await once(child, "spawn");
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-lastWordsChars)));
  for (const pipe of [child.stdout, child.stderr]) pipe.on("error", () => {});
  const ended = endOf(child);
  let ending: Promise<void> | undefined;
  return {
    pid: child.pid as number,
    stdout: child.stdout,
    lastWords: () => said.trim(),
    ended,
    end: () => (ending ??= endGroup(child.pid as number, ended, graceMs)),
  };
}

async function endOf(child: ChildProcessByStdio<null, Readable, Readable>): Promise<Exit> {
  const closed = once(child, "close");
  await once(child, "exit");
  const drained = new AbortController();
  await Promise.race([closed, sleep(drainMs, undefined, { signal: drained.signal }).catch(() => {})]);
  drained.abort();
  child.stdout.destroy();
  child.stderr.destroy();
  return { code: child.exitCode, signal: child.signalCode };
}

async function endGroup(group: number, ended: Promise<Exit>, graceMs: number): Promise<void> {
  const kill = (name: NodeJS.Signals | 0) => {
    try {
      return process.kill(-group, name);
    } catch {
      return false; // all of them have gone
    }
  };
  kill("SIGTERM");
  for (const began = performance.now(); kill(0) && performance.now() - began < graceMs;) await sleep(pollMs);
  kill("SIGKILL");
  await ended;
}

export interface RunOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
  /** A program that prints more on stdout is ended. */
  readonly mostOutputBytes: number;
  /** Between SIGTERM and SIGKILL; 5 s by default. */
  readonly graceMs?: number;
}

export interface Finished extends Exit {
  readonly stdout: string;
  readonly lastWords: string;
}

/**
 * Runs a program to its end, without stdin. When it is given up, its whole group has gone before this rejects.
 * @throws AgentError E_TIMEOUT, E_LIMIT; the signal's reason; the system's error if it cannot be started
 */
export async function runProgram(argv: readonly [string, ...string[]], options: RunOptions): Promise<Finished> {
  const { env, signal, timeoutMs, mostOutputBytes, graceMs } = options;
  const name = basename(argv[0]);
  signal.throwIfAborted();
  const program = await startProgram(argv, env, graceMs);
  let problem: Error | undefined;
  const stop = (why: Error) => {
    problem ??= why;
    void program.end();
  };
  const cancel = () => stop(signal.reason as Error);
  signal.addEventListener("abort", cancel, { once: true });
  if (signal.aborted) cancel();
  const timer = setTimeout(
    () => stop(new AgentError("E_TIMEOUT", `${name} has not ended within ${timeoutMs / 1000} s`)),
    timeoutMs,
  );
  const chunks: Buffer[] = [];
  let size = 0;
  program.stdout.on("data", (chunk: Buffer) => {
    size += chunk.length;
    if (size <= mostOutputBytes) chunks.push(chunk);
    else stop(new AgentError("E_LIMIT", `${name} prints more than ${mostOutputBytes} bytes`));
  });
  const exit = await program.ended;
  clearTimeout(timer);
  signal.removeEventListener("abort", cancel);
  // What it started must not go on, either.
  await program.end();
  if (problem !== undefined) throw problem;
  return { ...exit, stdout: Buffer.concat(chunks).toString("utf8"), lastWords: program.lastWords() };
}
