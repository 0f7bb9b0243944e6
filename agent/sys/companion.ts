import { spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import type { Readable } from "node:stream";

/** What is kept of what it printed, to say why it ended. */
const lastWordsBytes = 2_048;
/** No line that anybody reads is longer; the rest of a longer one is thrown away. */
const longestLine = 4_096;
/** After it has ended: what its pipes still hold. A process that it left behind may keep them open. */
const drainMs = 500;

/** A program that runs beside the agent: in a process group of its own, which ends with it, and it dies with the agent. */
export interface Companion {
  readonly pid: number;
  /** Resolves, and never rejects, when it has ended: how, in words. */
  readonly ended: Promise<string>;
  readonly hasEnded: boolean;
  /** The end of what it printed, in one line. */
  readonly lastWords: string;
  /** SIGTERM to its group, and SIGKILL when it is still there after `graceMs`. Resolves when it has ended. */
  stop(graceMs: number): Promise<void>;
}

export interface CompanionOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Each line that it prints, without its end. */
  readonly onLine?: (line: string, from: "stdout" | "stderr") => void;
}

/** Starts it. @throws the system's error (ENOENT, EACCES, …) if it cannot be started */
export async function startCompanion(
  program: string,
  args: readonly string[],
  { env = process.env, onLine = () => {} }: CompanionOptions = {},
): Promise<Companion> {
  const found = findProgram(program) ?? program;
  // The kernel ends it with the agent, even when the agent is killed. Without setpriv it would be left behind then.
  const setpriv = findProgram("setpriv");
  const [file, words] =
    setpriv === undefined ? [found, args] : [setpriv, ["--pdeathsig", "KILL", "--", found, ...args]];
  // What setpriv cannot start it tells by its exit status alone.
  if (setpriv !== undefined) accessSync(found, constants.X_OK);
  const child = spawn(file, words, { env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  await once(child, "spawn");
  const pid = child.pid as number;

  let lastWords = "";
  for (const from of ["stdout", "stderr"] as const) {
    readLines(child[from], (line) => {
      lastWords = `${lastWords}\n${line}`.slice(-lastWordsBytes);
      onLine(line, from);
    });
  }
  const kill = (signal: NodeJS.Signals) => {
    try {
      process.kill(-pid, signal);
    } catch {
      // all of them have gone
    }
  };
  let hasEnded = false;
  const ended = (async () => {
    const closed = once(child, "close");
    const [code, signal] = (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
    hasEnded = true;
    kill("SIGKILL");
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([closed, new Promise((resolve) => (timer = setTimeout(resolve, drainMs)))]);
    clearTimeout(timer);
    child.stdout.destroy();
    child.stderr.destroy();
    return signal ?? `exit status ${code}`;
  })();
  return {
    pid,
    ended,
    get hasEnded() {
      return hasEnded;
    },
    get lastWords() {
      return lastWords.trim().split("\n").slice(-3).join(" / ") || "it printed nothing";
    },
    async stop(graceMs) {
      if (!hasEnded) kill("SIGTERM");
      const timer = setTimeout(() => kill("SIGKILL"), graceMs);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** The file that a name on PATH stands for; undefined if there is none that this user may run. */
export function findProgram(name: string, path = process.env["PATH"] ?? ""): string | undefined {
  const files = name.includes("/") ? [name] : path.split(delimiter).map((directory) => join(directory, name));
  return files.find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return statSync(file).isFile();
    } catch {
      return false;
    }
  });
}

function readLines(stream: Readable, take: (line: string) => void): void {
  let rest = "";
  stream.setEncoding("utf8").on("data", (chunk: string) => {
    const parts = (rest + chunk).split("\n");
    rest = (parts.pop() ?? "").slice(0, longestLine);
    for (const part of parts) if (part.trim() !== "") take(part.trimEnd());
  });
  stream.on("error", () => {});
  stream.once("close", () => {
    if (rest.trim() !== "") take(rest.trimEnd());
  });
}
