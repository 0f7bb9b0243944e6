import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { dial } from "../../agent/stream/dial.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { startProgram, type Exit, type Program } from "../../agent/sys/program.ts";

/** It listens within 50 ms; a host that swaps may need seconds. */
const startTimeoutMs = 10_000;
const lookAgainMs = 20;

const firstPauseMs = 500;
const longestPauseMs = 30_000;
/** Who lived that long has not failed at its start. */
const livedWellMs = 60_000;

export interface Listening {
  /** Its socket. */
  readonly path: string;
  /** Since when, as `performance.now()`. */
  readonly sinceMs: number;
}

export interface Running {
  /**
   * Waits until it listens.
   * @throws DeviceOffline with what it said last, while it does not run; the signal's reason
   */
  listening(signal: AbortSignal): Promise<Listening>;
}

/** What a run of ustreamer is doing now. */
type State =
  { readonly is: "starting" } | ({ readonly is: "up" } & Listening) | { readonly is: "down"; readonly reason: string };

/** One ustreamer on a private unix socket: runs from the first use until `stop`, and is started again when it ends. */
export class Streamer {
  readonly #argv: (socketPath: string) => readonly [string, ...string[]];
  readonly #log: Logger;
  #run: Run | undefined;
  #stopping: Promise<void> = Promise.resolve();

  constructor(argv: (socketPath: string) => readonly [string, ...string[]], log: Logger) {
    this.#argv = argv;
    this.#log = log;
  }

  /** Starts it, unless it runs already. What is returned ends with `stop`. */
  running(): Running {
    return (this.#run ??= new Run(this.#argv, this.#log, this.#stopping));
  }

  /** Ends it; the next use starts it again. */
  async stop(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    if (run !== undefined) this.#stopping = run.stop();
    await this.#stopping;
  }
}

/** From one start to the stop that follows. */
class Run implements Running {
  readonly #log: Logger;
  readonly #closing = new AbortController();
  readonly #waiting = new Set<() => void>();
  readonly #done: Promise<void>;
  #state: State = { is: "starting" };

  constructor(argv: (path: string) => readonly [string, ...string[]], log: Logger, after: Promise<void>) {
    this.#log = log;
    this.#done = this.#supervise(argv, after);
  }

  async listening(signal: AbortSignal): Promise<Listening> {
    const over = anySignal([signal, this.#closing.signal]);
    while (this.#is("starting") && !over.aborted) await this.#change(over);
    signal.throwIfAborted();
    if (this.#closing.signal.aborted) throw new DeviceOffline("ustreamer was stopped");
    if (this.#state.is === "up") return this.#state;
    throw new DeviceOffline(this.#state.is === "down" ? this.#state.reason : "ustreamer does not listen");
  }

  async stop(): Promise<void> {
    this.#closing.abort();
    await this.#done;
  }

  #change(over: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        over.removeEventListener("abort", done);
        this.#waiting.delete(done);
        resolve();
      };
      over.addEventListener("abort", done);
      this.#waiting.add(done);
    });
  }

  #is(what: State["is"]): boolean {
    return this.#state.is === what;
  }

  #enter(state: State): void {
    this.#state = state;
    for (const wake of [...this.#waiting]) wake();
  }

  async #supervise(argv: (path: string) => readonly [string, ...string[]], after: Promise<void>): Promise<void> {
    const { signal } = this.#closing;
    await after;
    for (let pauseMs = firstPauseMs; !signal.aborted; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
      const beganMs = performance.now();
      const reason = await this.#live(argv).catch((error: unknown) => toAgentError(error).message);
      if (signal.aborted) break;
      if (performance.now() - beganMs > livedWellMs) pauseMs = firstPauseMs;
      this.#log.warn(`${reason}; next start in ${pauseMs / 1000} s`);
      this.#enter({ is: "down", reason });
      await sleep(pauseMs, undefined, { signal }).catch(() => {});
      if (!signal.aborted) this.#enter({ is: "starting" });
    }
  }

  /** One life of the program. @returns why it ended */
  async #live(argv: (path: string) => readonly [string, ...string[]]): Promise<string> {
    const { signal } = this.#closing;
    // Private, and short enough for a socket.
    const folder = await mkdtemp(join(tmpdir(), "ustreamer-"));
    const path = join(folder, "socket");
    let program: Program | undefined;
    const stop = () => void program?.stop();
    signal.addEventListener("abort", stop, { once: true });
    try {
      program = await startProgram(argv(path));
      if (signal.aborted) stop();
      const problem = await this.#comesUp(path, program);
      if (problem === undefined) {
        this.#log.info(`ustreamer runs, pid ${program.pid}`);
        this.#enter({ is: "up", path, sinceMs: performance.now() });
      } else await program.stop();
      const exit = await program.ended;
      return `ustreamer ${problem ?? `has ended (${describeExit(exit)})`}: ${program.lastWords}`;
    } finally {
      signal.removeEventListener("abort", stop);
      await program?.stop();
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** Waits until its socket takes connections. @returns what is wrong if it does not */
  async #comesUp(path: string, program: Program): Promise<string | undefined> {
    let exit: Exit | undefined;
    void program.ended.then((ended) => (exit = ended));
    const { signal } = this.#closing;
    for (const began = performance.now(); exit === undefined; await sleep(lookAgainMs)) {
      if (performance.now() - began > startTimeoutMs) return `does not listen within ${startTimeoutMs / 1000} s`;
      const probe = await dial({ path }, "ustreamer", signal, startTimeoutMs).catch(() => undefined);
      if (probe === undefined) continue;
      probe.destroy();
      return undefined;
    }
    return `has ended (${describeExit(exit)})`;
  }
}

const describeExit = ({ code, signal }: Exit) => signal ?? `exit ${code}`;
