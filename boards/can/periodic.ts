import { randomUUID } from "node:crypto";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { CanFrame } from "./bus.ts";

/** What it takes to send; a test has its own clock. */
export interface PeriodicOptions {
  readonly send: (frame: CanFrame) => Promise<void>;
  readonly warn: (text: string) => void;
  /** Milliseconds that only grow. */
  readonly now?: () => number;
  readonly later?: (run: () => void, ms: number) => () => void;
}

const tasksLimit = 256;
export const leastPeriodS = 0.0001;
/** The longest that setTimeout takes. */
const longestPeriodS = 2_147_483;
/** After the process was held up, what was due longer ago is left out: a burst would only hold up others. */
const catchUpMs = 20;

/** Frames that are sent over and over, timed from the start of each task, so that late timers do not add up. */
export class PeriodicTasks {
  readonly #options: Required<PeriodicOptions>;
  readonly #tasks = new Map<string, Task>();

  constructor(options: PeriodicOptions) {
    this.#options = { now: () => performance.now(), later: timer, ...options };
  }

  /**
   * Sends the frames by turns, one each period, until the duration is over or it is stopped.
   * @returns its uuid
   * @throws AgentError E_INVALID, E_LIMIT
   */
  add(frames: readonly CanFrame[], periodS: number, durationS: number | undefined): string {
    const [first] = frames;
    // python-can's words
    if (first === undefined) throw new AgentError("E_INVALID", "Must be at least a list or tuple of length 1");
    if (frames.some(({ id }) => id !== first.id)) {
      throw new AgentError("E_INVALID", "All Arbitration IDs should be the same");
    }
    if (frames.some(({ channel }) => channel !== first.channel)) {
      throw new AgentError("E_INVALID", "All Channel IDs should be the same");
    }
    if (!(periodS >= leastPeriodS && periodS <= longestPeriodS)) {
      throw new AgentError(
        "E_INVALID",
        `period must be between ${leastPeriodS} and ${longestPeriodS} s, not ${periodS}`,
      );
    }
    if (this.#tasks.size >= tasksLimit) {
      throw new AgentError("E_LIMIT", `${tasksLimit} periodic tasks are there already; stop some`);
    }
    const uuid = randomUUID();
    this.#tasks.set(
      uuid,
      new Task(frames, periodS * 1000, durationS === undefined ? Infinity : durationS * 1000, this.#options),
    );
    return uuid;
  }

  /** A running task goes on as it is; one that has ended begins anew. @throws AgentError E_FAILED for an unknown one */
  start(uuid: string): void {
    this.#find(uuid).start();
  }

  /** Stops a task and forgets it. @throws AgentError E_FAILED for an unknown one */
  remove(uuid: string): void {
    this.#find(uuid).stop();
    this.#tasks.delete(uuid);
  }

  /** They can be started again, and have to be removed still. */
  stopAll(): void {
    for (const task of this.#tasks.values()) task.stop();
  }

  clear(): void {
    this.stopAll();
    this.#tasks.clear();
  }

  #find(uuid: string): Task {
    const task = this.#tasks.get(uuid);
    if (task === undefined) throw new AgentError("E_FAILED", `no periodic task ${uuid}`);
    return task;
  }
}

function timer(run: () => void, ms: number): () => void {
  const timeout = setTimeout(run, ms).unref();
  return () => clearTimeout(timeout);
}

class Task {
  readonly #frames: readonly CanFrame[];
  readonly #periodMs: number;
  readonly #durationMs: number;
  readonly #options: Required<PeriodicOptions>;
  /** Undefined while it does not run. */
  #startMs: number | undefined;
  /** Periods since the start that are dealt with. */
  #periods = 0;
  #next = 0;
  #cancel = () => {};
  #sending = false;
  #failing = false;

  constructor(frames: readonly CanFrame[], periodMs: number, durationMs: number, options: Required<PeriodicOptions>) {
    this.#frames = frames;
    this.#periodMs = periodMs;
    this.#durationMs = durationMs;
    this.#options = options;
  }

  start(): void {
    if (this.#startMs !== undefined) return;
    this.#startMs = this.#options.now();
    this.#periods = 0;
    this.#next = 0;
    void this.#run();
  }

  stop(): void {
    this.#startMs = undefined;
    this.#cancel();
  }

  /** Sends what is due, and comes back when something is. */
  async #run(): Promise<void> {
    // A bus that takes no frames must not pile them up.
    if (this.#sending) return;
    this.#sending = true;
    try {
      for (let dueMs = this.#dueMs(); dueMs !== undefined && dueMs <= this.#options.now(); dueMs = this.#dueMs()) {
        const missed = Math.floor((this.#options.now() - dueMs - catchUpMs) / this.#periodMs);
        this.#periods += 1 + Math.max(0, missed);
        if (missed > 0) continue;
        await this.#send();
      }
    } finally {
      this.#sending = false;
    }
    const dueMs = this.#dueMs();
    if (dueMs === undefined) this.stop();
    else this.#cancel = this.#options.later(() => void this.#run(), Math.max(0, dueMs - this.#options.now()));
  }

  /** When the next frame is to be sent; undefined when there is none any more. */
  #dueMs(): number | undefined {
    if (this.#startMs === undefined) return undefined;
    const afterMs = this.#periods * this.#periodMs;
    return afterMs < this.#durationMs ? this.#startMs + afterMs : undefined;
  }

  async #send(): Promise<void> {
    const frame = this.#frames[this.#next % this.#frames.length];
    this.#next += 1;
    if (frame === undefined) return;
    try {
      await this.#options.send(frame);
      this.#failing = false;
    } catch (error) {
      // Said once: it goes on, as the kernel's own broadcast manager does.
      if (!this.#failing) this.#options.warn(`a periodic frame was not sent: ${toAgentError(error).message}`);
      this.#failing = true;
    }
  }
}
