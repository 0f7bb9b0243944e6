import type { Cancellable } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, isSystemError } from "../../agent/driver/errors.ts";
import { scriptEnvironment } from "./environment.ts";
import { run, TimeoutExpired } from "./process.ts";

/** What is kept of each pipe: enough for an explanation, and for any listing that is parsed. */
const keptCharacters = 64 * 1024;

export interface ProgramRun extends Cancellable {
  readonly program: string;
  readonly args: readonly string[];
  /** Seconds, after which the program and all it started are ended. */
  readonly timeoutS: number;
  /** Added to the agent's environment, without its secrets. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** How to get a program that is not there: `apt install fastboot`. */
  readonly install?: string;
  /** Told of each line as it is printed, also of those that a carriage return will overwrite. */
  readonly onLine?: (line: string) => void;
}

export interface ProgramResult {
  /** Exit status; minus the number of the signal that ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a program to its end, in a process group of its own. When this has returned or thrown, the group has gone.
 * @throws DeviceOffline if it is not installed; AgentError E_TIMEOUT, E_CANCELLED
 */
export async function runProgram(wanted: ProgramRun): Promise<ProgramResult> {
  const { program, args, timeoutS, signal, cwd, onLine } = wanted;
  const ending: Promise<void>[] = [];
  const [out, err] = [collector(onLine), collector(onLine)];
  let code = -1;
  try {
    for await (const [stdout, stderr, exit] of run({
      argv: [program, ...args],
      cwd,
      env: scriptEnvironment(process.env, { LC_ALL: "C.UTF-8", ...wanted.env }, {}),
      timeoutMs: timeoutS * 1000,
      signal,
      onEnding: (ended) => ending.push(ended),
    })) {
      out.add(stdout);
      err.add(stderr);
      if (exit !== null) code = exit;
    }
  } catch (error) {
    if (error instanceof TimeoutExpired) {
      throw new AgentError("E_TIMEOUT", `${program} was not done in ${timeoutS} s${lastWords(err.text || out.text)}`);
    }
    if (isSystemError(error) && (error.code === "ENOENT" || error.code === "EACCES")) {
      throw notInstalled(program, wanted.install);
    }
    throw error;
  } finally {
    await Promise.all(ending);
  }
  out.end();
  err.end();
  return { code, stdout: out.text, stderr: err.text };
}

function notInstalled(program: string, install: string | undefined): DeviceOffline {
  const how = install === undefined ? "" : ` (${install})`;
  return new DeviceOffline(
    `${program} is not installed on the exporter's host${how}`,
    install === undefined ? {} : { hint: install },
  );
}

/** For an error: `: ` and the last lines that say something; empty if there are none. */
export function lastWords(text: string, count = 3): string {
  const lines = text.split(/[\r\n]+/).flatMap((line) => (line.trim() === "" ? [] : [line.trim()]));
  return lines.length === 0 ? "" : `: ${lines.slice(-count).join(" / ")}`;
}

/** Keeps the newest of a text, and cuts it into lines. */
function collector(onLine: ((line: string) => void) | undefined) {
  let text = "";
  let line = "";
  const tell = (complete: string) => {
    if (complete.trim() !== "") onLine?.(complete.trimEnd());
  };
  return {
    add(piece: string): void {
      if (piece === "") return;
      text = (text + piece).slice(-keptCharacters);
      const lines = (line + piece).split(/[\r\n]/);
      line = (lines.pop() ?? "").slice(-keptCharacters);
      lines.forEach(tell);
    },
    end: () => tell(line),
    get text(): string {
      return text;
    },
  };
}
