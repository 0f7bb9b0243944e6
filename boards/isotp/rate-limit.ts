export interface RateLimit {
  readonly bitsPerSecond: number;
  readonly windowMs: number;
}

/** Parts of a window in which what was sent is added up, so that a window has a bounded memory. */
const slotsPerWindow = 64;

/** Never more data in any window of time than its bit rate allows. */
export class RateWindow {
  readonly #bits: number;
  readonly #windowMs: number;
  readonly #slotMs: number;
  readonly #slots: { readonly startMs: number; bits: number }[] = [];
  #usedBits = 0;

  constructor({ bitsPerSecond, windowMs }: RateLimit) {
    this.#bits = (bitsPerSecond * windowMs) / 1000;
    this.#windowMs = windowMs;
    this.#slotMs = windowMs / slotsPerWindow;
  }

  /** When so many bytes may be sent: `nowMs`, or later. */
  allowedAtMs(bytes: number, nowMs: number): number {
    this.#forget(nowMs);
    let excessBits = this.#usedBits + bytes * 8 - this.#bits;
    for (const slot of this.#slots) {
      if (excessBits <= 0) return nowMs;
      excessBits -= slot.bits;
      if (excessBits <= 0) return this.#endMs(slot);
    }
    return nowMs;
  }

  /** Also for what is sent without having asked. */
  sent(bytes: number, nowMs: number): void {
    const bits = bytes * 8;
    const last = this.#slots.at(-1);
    if (last !== undefined && nowMs - last.startMs < this.#slotMs) last.bits += bits;
    else this.#slots.push({ startMs: nowMs, bits });
    this.#usedBits += bits;
  }

  /** A slot counts until a whole window after its last part. */
  #endMs(slot: { readonly startMs: number }): number {
    return slot.startMs + this.#slotMs + this.#windowMs;
  }

  #forget(nowMs: number): void {
    for (let [first] = this.#slots; first !== undefined && this.#endMs(first) <= nowMs; [first] = this.#slots) {
      this.#usedBits -= first.bits;
      this.#slots.shift();
    }
  }
}
