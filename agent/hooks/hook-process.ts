import { spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, closeSync, constants as fileConstants } from "node:fs";
import { constants } from "node:os";
import { isSystemError } from "../driver/errors.ts";
import { loadPtys } from "../sys/pty.ts";
import { findProgram } from "./find-program.ts";
import { noteHook } from "./leftovers.ts";
import { killSession } from "./process-session.ts";
import { readTerminal } from "./terminal-output.ts";

export interface HookProcess {
  /** The exit code, or the number of the signal that ended it below zero. */
  readonly exited: Promise<number>;
  /** SIGTERM and, for what does not heed it, SIGKILL to all that the hook has started. */
  kill(): Promise<void>;
  /** After its end: waits for the last output. */
  finish(): Promise<void>;
}

export interface HookProcessOptions {
  readonly command: readonly [interpreter: string, ...words: string[]];
  readonly env: NodeJS.ProcessEnv;
  /** Where to note the process for who cleans up. */
  readonly directory: string;
  readonly emit: (line: string) => void;
}

/** Between SIGTERM and SIGKILL. */
const graceMs = 5_000;

/** util-linux; ends the hook with us even if we are killed. */
const setpriv = "/usr/bin/setpriv";

/** Runs a command in a session of its own, on a terminal of its own. @throws what kept it from starting */
export async function startHookProcess(options: HookProcessOptions): Promise<HookProcess> {
  const { command, env, directory, emit } = options;
  const [interpreter] = command;
  const ptys = await loadPtys();
  // Here and not by setpriv, whose complaint would look like the hook's own output.
  findProgram(interpreter, env["PATH"]);
  const { controller, terminal } = ptys.open();
  const output = readTerminal(controller, emit);
  try {
    ptys.keepDescriptors();
    const [file, ...words] = isExecutable(setpriv)
      ? ([setpriv, "--pdeathsig", "KILL", "--", ...command] as const)
      : command;
    const child = spawn(file, words, { env, detached: true, stdio: [terminal, terminal, terminal] });
    const exit = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    exit.catch(() => {});
    await once(child, "spawn");
    const pid = child.pid as number;
    const exited = exit.then(([code, signal]) => code ?? -constants.signals[signal as NodeJS.Signals]);
    const kill = () => killSession(pid, { graceMs, leaderEnded: exited.then(() => {}) });
    try {
      noteHook(directory, pid);
    } catch (error) {
      await kill();
      throw error;
    }
    return { exited, kill, finish: () => output.finish() };
  } catch (error) {
    await output.close();
    throw naming(error, interpreter);
  } finally {
    closeSync(terminal);
  }
}

/** Users know what they configured, and not the helper that starts it. */
function naming(error: unknown, interpreter: string): unknown {
  const isSpawn = isSystemError(error) && error.syscall?.startsWith("spawn") === true;
  return isSpawn ? Object.assign(error, { path: interpreter }) : error;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, fileConstants.X_OK);
    return true;
  } catch {
    return false;
  }
}
