import { performance } from "node:perf_hooks";

/**
 * A timer for a deadline that moves with every packet: the timer lags behind it, which is cheaper than moving the
 * timer. What waits in the sockets when it fires is read first, so that nobody is thought silent because this process
 * was busy.
 */
export class Deadline {
  readonly #onPassed: (nowMs: number) => void;
  #atMs = Infinity;
  #firesMs = Infinity;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;

  /** @param onPassed called once for a deadline that was set and not moved in time */
  constructor(onPassed: (nowMs: number) => void) {
    this.#onPassed = onPassed;
  }

  /** Times are those of `performance.now()`. */
  set(atMs: number, nowMs: number): void {
    this.#atMs = atMs;
    if (this.#firesMs > atMs) this.#arm(nowMs);
  }

  /** There is none any more. */
  clear(): void {
    this.#atMs = Infinity;
    this.#firesMs = Infinity;
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
  }

  #arm(nowMs: number): void {
    clearTimeout(this.#timer);
    this.#firesMs = this.#atMs;
    this.#timer = setTimeout(this.#onTimer, this.#atMs - nowMs);
  }

  /** Node polls its sockets between timers and immediates. */
  readonly #onTimer = (): void => {
    this.#immediate = setImmediate(this.#onPolled);
  };

  readonly #onPolled = (): void => {
    this.#firesMs = Infinity;
    const nowMs = performance.now();
    if (nowMs < this.#atMs) {
      this.#arm(nowMs);
    } else {
      this.#atMs = Infinity;
      this.#onPassed(nowMs);
    }
  };
}
