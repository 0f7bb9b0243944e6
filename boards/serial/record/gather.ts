import type { Moment } from "./protocol.ts";

const LF = 0x0a;
/** A line without an end is written down in pieces of about this. */
const longestHeldBytes = 4 * 1024;
/** So long a line may take to become whole; a prompt has no end and shall be seen. */
const holdMs = 100;

/**
 * Makes entries of chunks: whole lines, each with the moment in which its first byte came; lines that came together stay together.
 * A line that stops half-way is written down as far as it came.
 */
export class Gatherer {
  readonly #emit: (bytes: Uint8Array, at: Moment) => void;
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #heldSince: Moment | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(emit: (bytes: Uint8Array, at: Moment) => void) {
    this.#emit = emit;
  }

  push(chunk: Uint8Array, at: Moment): void {
    const last = chunk.lastIndexOf(LF);
    let begin = 0;
    if (last !== -1 && this.#heldSince !== undefined) {
      begin = chunk.indexOf(LF) + 1;
      this.#hold(chunk.subarray(0, begin), at);
      this.flush();
    }
    if (begin <= last) this.#emit(chunk.subarray(begin, last + 1), at);
    if (last + 1 < chunk.length) this.#hold(chunk.subarray(last + 1), at);
    if (this.#heldBytes >= longestHeldBytes) this.flush();
  }

  /** Writes down what is held back. */
  flush(): void {
    const at = this.#heldSince;
    if (at === undefined) return;
    const bytes = this.#held.length === 1 ? (this.#held[0] as Uint8Array) : Buffer.concat(this.#held);
    this.#held = [];
    this.#heldBytes = 0;
    this.#heldSince = undefined;
    this.#emit(bytes, at);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.flush();
  }

  #hold(bytes: Uint8Array, at: Moment): void {
    this.#held.push(bytes);
    this.#heldBytes += bytes.length;
    this.#heldSince ??= at;
    this.#timer ??= setTimeout(() => this.#late(), holdMs).unref();
  }

  /** One timer for all lines: setting one for each would cost more than the lines. */
  #late(): void {
    this.#timer = undefined;
    const since = this.#heldSince;
    if (since === undefined) return;
    const leftMs = holdMs - (Number(process.hrtime.bigint() / 1_000n) - since.monotonicUs) / 1_000;
    if (leftMs <= 0) this.flush();
    else this.#timer = setTimeout(() => this.#late(), leftMs).unref();
  }
}
