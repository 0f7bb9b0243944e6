import type { Clock } from "./clock.ts";

/**
 * What an exporter has to bring to an end by itself, and by when. All of it is bounded where it is done; what is overdue here hangs, and
 * only a new process helps. What the controller, a client or a device keeps waiting does not belong here.
 */
export class Heart {
  readonly #clock: Pick<Clock, "now">;
  readonly #under = new Set<{ readonly what: string; readonly sinceMs: number; readonly limitMs: number }>();

  constructor(clock: Pick<Clock, "now">) {
    this.#clock = clock;
  }

  /** Follows work to its end, however it ends. @param what it is, as in "the lease does not end" */
  async during<T>(what: string, limitMs: number, work: () => Promise<T>): Promise<T> {
    const own = { what, sinceMs: this.#clock.now(), limitMs };
    this.#under.add(own);
    try {
      return await work();
    } finally {
      this.#under.delete(own);
    }
  }

  /** What hangs, and for how long; undefined while the exporter is well. */
  get overdue(): string | undefined {
    const now = this.#clock.now();
    for (const { what, sinceMs, limitMs } of this.#under) {
      if (now - sinceMs > limitMs) return `${what}, for ${Math.round((now - sinceMs) / 1_000)} s`;
    }
    return undefined;
  }
}
