import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, statSync } from "node:fs";
import { basename, delimiter, join } from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Cancellable } from "../driver/driver.ts";
import { AgentError, DeviceOffline, isSystemError } from "../driver/errors.ts";

/** Between SIGTERM and SIGKILL. */
const usualGraceMs = 5_000;

/** A finished program's pipes may be held open by what has left its group. */
const drainMs = 500;

/** What is kept of what a running program prints, to say why it ended. */
const lastWordsCharacters = 8_192;
/** No line that anybody reads is longer; the rest of one whose end does not come is thrown away. */
const longestLine = 4_096;
/** What is kept of each pipe of a program that is run to its end: enough for any listing that is parsed. */
const keptCharacters = 64 * 1024;

/** Names in the agent's own environment whose values are nobody's business but its own. */
const secret = /TOKEN|PASSPHRASE|PASSWORD|SECRET|CREDENTIAL|^NOTIFY_SOCKET$/i;

/** An environment that a program may have. */
export function withoutSecrets(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !secret.test(name)));
}

/** For a program whose output is parsed: the agent's own environment without its secrets, in plain English, and more. */
export function englishEnvironment(more: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  return { ...withoutSecrets(process.env), LC_ALL: "C.UTF-8", ...more };
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
  return signal ?? `exit status ${code}`;
}

/** The last lines that say something, in one line, with `before` in front of it; empty if there are none. */
export function lastWords(text: string, before = ""): string {
  const lines = text.split(/[\r\n]+/).flatMap((line) => (/[\p{L}\p{N}]/u.test(line) ? [line.trim()] : []));
  return lines.length === 0 ? "" : before + lines.slice(-3).join(" / ");
}

type Pipe = "stdout" | "stderr";

export interface ProgramOptions {
  /** All of it; the agent's own without its secrets by default. */
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Told of each line that is not empty, without its end; also of those that a carriage return will overwrite. */
  readonly onLine?: ((line: string, from: Pipe) => void) | undefined;
  /** Between SIGTERM and SIGKILL; 5 s by default. */
  readonly graceMs?: number;
}

/** A program that runs beside the agent, in a process group of its own, which ends with it. */
export interface Program {
  readonly pid: number;
  /** Resolves when it has ended, its group too, and all that it printed is read. Never rejects. */
  readonly ended: Promise<Exit>;
  readonly hasEnded: boolean;
  /** The end of what it printed, in one line. */
  readonly lastWords: string;
  /** SIGTERM to the group; SIGKILL for those who do not listen. Resolves as `ended` does. */
  stop(): Promise<void>;
}

/**
 * Starts a program without stdin that does not outlive us, however we end.
 * @throws the system's error (ENOENT, EACCES) if it cannot be started
 */
export function startProgram(argv: readonly [string, ...string[]], options: ProgramOptions = {}): Promise<Program> {
  return start(argv, options, () => {});
}

/** @param onText told of what is printed as it comes, in whole characters */
async function start(
  [file, ...args]: readonly [string, ...string[]],
  { env = withoutSecrets(process.env), cwd, onLine, graceMs = usualGraceMs }: ProgramOptions,
  onText: (text: string, from: Pipe) => void,
): Promise<Program> {
  // The kernel ends it with us, even if we are killed. Of a program that is not there, setpriv would speak in its own words.
  const [setpriv, found] = [findProgram("setpriv"), findProgram(file, env["PATH"])];
  const [program, words] =
    setpriv !== undefined && found !== undefined
      ? [setpriv, ["--pdeathsig", "KILL", "--", found, ...args]]
      : [file, args];
  const child = spawn(program, words, { env, cwd, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  await once(child, "spawn");

  let said = "";
  const readers = (["stdout", "stderr"] as const).map((from) => {
    const lines = new Lines((line) => {
      said = `${said}\n${line}`.slice(-lastWordsCharacters);
      onLine?.(line, from);
    });
    child[from].on("error", () => {});
    child[from].setEncoding("utf8").on("data", (text: string) => {
      onText(text, from);
      lines.add(text);
    });
    return lines;
  });
  const ended = endOf(child).finally(() => readers.forEach((lines) => lines.end()));
  let stopping: Promise<void> | undefined;
  return {
    pid: child.pid as number,
    ended,
    get hasEnded() {
      return hasEnded(child);
    },
    get lastWords() {
      return lastWords(said) || "it printed nothing";
    },
    stop: () => (stopping ??= stop(child, ended, graceMs)),
  };
}

/** Cuts a text that comes in pieces into lines. */
class Lines {
  readonly #take: (line: string) => void;
  #rest = "";

  constructor(take: (line: string) => void) {
    this.#take = take;
  }

  add(text: string): void {
    const parts = (this.#rest + text).split(/[\r\n]/);
    this.#rest = (parts.pop() ?? "").slice(0, longestLine);
    for (const part of parts) if (part.trim() !== "") this.#take(part.trimEnd());
  }

  end(): void {
    this.add("\n");
  }
}

type Child = ChildProcessByStdio<null, Readable, Readable>;

const hasEnded = ({ exitCode, signalCode }: Child) => exitCode !== null || signalCode !== null;

async function endOf(child: Child): Promise<Exit> {
  const closed = once(child, "close");
  await once(child, "exit");
  // What it started must not go on, either.
  killGroup(child, "SIGKILL");
  const drained = new AbortController();
  await Promise.race([closed, sleep(drainMs, undefined, { signal: drained.signal }).catch(() => {})]);
  drained.abort();
  child.stdout.destroy();
  child.stderr.destroy();
  return { code: child.exitCode, signal: child.signalCode };
}

async function stop(child: Child, ended: Promise<Exit>, graceMs: number): Promise<void> {
  if (!hasEnded(child)) killGroup(child, "SIGTERM");
  const timer = setTimeout(() => killGroup(child, "SIGKILL"), graceMs);
  await ended;
  clearTimeout(timer);
}

function killGroup(child: Child, signal: NodeJS.Signals): void {
  try {
    process.kill(-(child.pid as number), signal);
  } catch {
    // all of them have gone
  }
}

export interface RunOptions extends ProgramOptions, Cancellable {
  readonly timeoutMs: number;
  /** How a timeout is told; `NAME has not ended within N s` by default. */
  readonly late?: string;
  /** A program that prints more on stdout is ended; if that is not given, the newest 64 Ki characters are kept. */
  readonly mostOutputBytes?: number;
  /** How to get a program that is not there: `apt install fastboot`. */
  readonly install?: string;
}

export interface Finished extends Exit {
  readonly stdout: string;
  /** The newest 64 Ki characters. */
  readonly stderr: string;
}

/**
 * Runs a program to its end, without stdin. When this has returned or thrown, its whole group has gone.
 * @throws DeviceOffline if it is not installed; AgentError E_TIMEOUT, E_LIMIT; the signal's reason
 */
export async function runProgram(argv: readonly [string, ...string[]], options: RunOptions): Promise<Finished> {
  const { signal, timeoutMs, mostOutputBytes = Infinity, install } = options;
  const name = basename(argv[0]);
  const { late = `${name} has not ended within ${timeoutMs / 1000} s` } = options;
  signal.throwIfAborted();

  const said = { stdout: "", stderr: "" };
  const kept = { stdout: options.mostOutputBytes ?? keptCharacters, stderr: keptCharacters };
  let bytes = 0;
  const program = await start(argv, options, (text, from) => {
    said[from] = (said[from] + text).slice(-kept[from]);
    if (from === "stdout") bytes += Buffer.byteLength(text);
    if (bytes > mostOutputBytes) {
      giveUp(() => new AgentError("E_LIMIT", `${name} prints more than ${mostOutputBytes} bytes`));
    }
  }).catch((error: unknown) => {
    throw isSystemError(error) ? notInstalled(argv[0], install, error) : error;
  });

  let problem: (() => unknown) | undefined;
  const giveUp = (why: () => unknown) => {
    problem ??= why;
    void program.stop();
  };
  const cancel = () => giveUp(() => signal.reason);
  signal.addEventListener("abort", cancel, { once: true });
  if (signal.aborted) cancel();
  const timer = setTimeout(
    () => giveUp(() => new AgentError("E_TIMEOUT", late + lastWords(said.stderr || said.stdout, ": "))),
    timeoutMs,
  );
  const exit = await program.ended;
  clearTimeout(timer);
  signal.removeEventListener("abort", cancel);
  if (problem !== undefined) throw problem();
  return { ...exit, ...said };
}

/** Of the system's errors at a start, those that mean that nothing can be executed there. */
function notInstalled(program: string, install: string | undefined, error: NodeJS.ErrnoException): Error {
  if (error.code !== "ENOENT" && error.code !== "EACCES") return error;
  const [how, hint] = install === undefined ? ["", {}] : [` (${install})`, { hint: install }];
  return new DeviceOffline(`${program} is not installed on the exporter's host${how}`, { ...hint, cause: error });
}
