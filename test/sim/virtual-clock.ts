import type { Clock } from "../../agent/controller/clock.ts";

interface Sleeper {
  readonly dueMs: number;
  readonly wake: () => void;
}

/** A clock that stands still until the test moves it. */
export class VirtualClock implements Clock {
  readonly #sleepers = new Set<Sleeper>();
  readonly #startedAt: Date;
  #nowMs = 0;
  /** How far the time of day is off. */
  wallOffsetMs = 0;

  constructor(startedAt = new Date("2026-01-01T00:00:00Z")) {
    this.#startedAt = startedAt;
  }

  now(): number {
    return this.#nowMs;
  }

  wall(): Date {
    return new Date(this.#startedAt.getTime() + this.#nowMs + this.wallOffsetMs);
  }

  /** How many wait. */
  get sleeping(): number {
    return this.#sleepers.size;
  }

  /** When the next one wakes, on this clock; undefined if nobody waits. */
  get nextMs(): number | undefined {
    return this.#next()?.dueMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason as Error);
        return;
      }
      const leave = () => {
        this.#sleepers.delete(sleeper);
        signal?.removeEventListener("abort", cancelled);
      };
      const cancelled = () => {
        leave();
        reject(signal?.reason as Error);
      };
      const sleeper: Sleeper = {
        dueMs: this.#nowMs + Math.max(0, ms),
        wake: () => {
          leave();
          resolve();
        },
      };
      this.#sleepers.add(sleeper);
      signal?.addEventListener("abort", cancelled, { once: true });
    });
  }

  /** Lets this much time pass: who is due wakes in order, and what comes of it runs before time goes on. */
  async advance(ms: number): Promise<void> {
    const until = this.#nowMs + ms;
    await turn();
    for (let next = this.#next(); next !== undefined && next.dueMs <= until; next = this.#next()) {
      this.#nowMs = Math.max(this.#nowMs, next.dueMs);
      next.wake();
      await turn();
    }
    this.#nowMs = Math.max(this.#nowMs, until); // advances may overlap
    await turn();
  }

  #next(): Sleeper | undefined {
    let first: Sleeper | undefined;
    for (const sleeper of this.#sleepers) if (first === undefined || sleeper.dueMs < first.dueMs) first = sleeper;
    return first;
  }
}

/** Lets the event loop turn: promises settle, and sockets of this machine carry what was written to them. */
async function turn(): Promise<void> {
  for (let count = 0; count < 4; count += 1) await new Promise((resolve) => setImmediate(resolve));
}
