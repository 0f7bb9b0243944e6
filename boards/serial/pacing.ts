/** A late timer may be made up for by this much sending at once; a DUT's receive FIFO takes a few bytes. */
const burstMs = 10;

/** Token bucket for characters: an average rate that also holds across many small writes. */
export class Pacer {
  readonly #perMs: number;
  readonly #capacity: number;
  #tokens = 1;
  #filledAtMs: number;

  /** @param cps characters per second, > 0 */
  constructor(cps: number, nowMs: number) {
    this.#perMs = cps / 1000;
    this.#capacity = Math.max(1, this.#perMs * burstMs);
    this.#filledAtMs = nowMs;
  }

  /** How many of `wanted` characters may be sent now; they count as sent. */
  take(wanted: number, nowMs: number): number {
    this.#tokens = Math.min(this.#capacity, this.#tokens + (nowMs - this.#filledAtMs) * this.#perMs);
    this.#filledAtMs = nowMs;
    const taken = Math.min(wanted, Math.floor(this.#tokens + 1e-6));
    this.#tokens -= taken;
    return taken;
  }

  /** How long until the next character may be sent. */
  get waitMs(): number {
    return Math.max(0, (1 - this.#tokens) / this.#perMs);
  }
}
