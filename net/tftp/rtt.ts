export interface RetransmissionLimits {
  /** Shortest wait for an answer. */
  readonly floorMs: number;
  /** Longest wait, also after many losses in a row. */
  readonly ceilingMs: number;
}

/** Before the first answer nothing is known, and the client may have more to do than to answer: to find our address. */
const firstMs = 100;

/** Round-trip time as RFC 6298 estimates it, and the retransmission timeout that follows from it. */
export class RoundTrip {
  readonly #limits: RetransmissionLimits;
  #smoothedMs: number | undefined;
  #variationMs = 0;
  #backOff = 1;
  #shortestMs = Infinity;

  constructor(limits: RetransmissionLimits) {
    this.#limits = limits;
  }

  /** The quickest answer so far, 0 before the first: what arrives sooner after a packet is no answer to it. */
  get shortestMs(): number {
    return this.#smoothedMs === undefined ? 0 : this.#shortestMs;
  }

  /** Takes one measured round trip; only of packets that were sent once (Karn's rule). */
  sample(ms: number): void {
    this.#shortestMs = Math.min(this.#shortestMs, ms);
    if (this.#smoothedMs === undefined) {
      this.#smoothedMs = ms;
      this.#variationMs = ms / 2;
    } else {
      this.#variationMs += (Math.abs(this.#smoothedMs - ms) - this.#variationMs) / 4;
      this.#smoothedMs += (ms - this.#smoothedMs) / 8;
    }
  }

  get timeoutMs(): number {
    const { floorMs, ceilingMs } = this.#limits;
    const estimate = this.#smoothedMs === undefined ? firstMs : this.#smoothedMs + 4 * this.#variationMs;
    return Math.min(Math.max(estimate, floorMs) * this.#backOff, ceilingMs);
  }

  /** The timeout passed: wait twice as long next time. */
  lost(): void {
    if (this.#backOff < 256) this.#backOff *= 2;
  }

  /** The peer made progress. */
  heard(): void {
    this.#backOff = 1;
  }
}
