export interface Progress {
  readonly phase: "write" | "sync" | "verify" | "leeway" | "read";
  /** Of this phase: the device has acknowledged the image up to here, or so many bytes were read back and found right. */
  readonly bytes: number;
  /** Undefined while it is not known. */
  readonly totalBytes: number | undefined;
  /** What has been taken of the stream as it comes. */
  readonly givenBytes: number;
  /** Estimated, of this phase; undefined while there is nothing to go by. */
  readonly remainingMs: number | undefined;
}

/** Earlier, a phase has shown nothing of its speed. */
const settledAfterMs = 1_000;

/** Tells how far a write has come, and estimates how long its phase goes on. */
export class ProgressMeter {
  readonly #report: ((progress: Progress) => void) | undefined;
  readonly #givenTotal: number | undefined;
  #phase = "";
  #beganMs = 0;
  #givenBytes = 0;

  /** @param givenTotal bytes of the stream as it comes, when known */
  constructor(report: ((progress: Progress) => void) | undefined, givenTotal: number | undefined) {
    this.#report = report;
    this.#givenTotal = givenTotal;
  }

  tell(phase: Progress["phase"], bytes: number, totalBytes: number | undefined, givenBytes = this.#givenBytes): void {
    const nowMs = performance.now();
    if (phase !== this.#phase) [this.#phase, this.#beganMs] = [phase, nowMs];
    this.#givenBytes = givenBytes;
    const elapsedMs = nowMs - this.#beganMs;
    // How well an image is compressed varies less than how much of it there is.
    const done =
      totalBytes !== undefined
        ? bytes / totalBytes
        : this.#givenTotal !== undefined
          ? givenBytes / this.#givenTotal
          : 0;
    const isKnown = done > 0 && done <= 1 && elapsedMs >= settledAfterMs;
    const remainingMs = isKnown ? Math.round((elapsedMs * (1 - done)) / done) : undefined;
    this.#report?.({ phase, bytes, totalBytes, givenBytes, remainingMs });
  }
}
