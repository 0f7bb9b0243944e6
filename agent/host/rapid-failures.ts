import type { Clock } from "../controller/clock.ts";

/** Counts failures that follow one another fast; an exporter that lived longer in between begins anew. */
export class RapidFailures {
  readonly #clock: Clock;
  readonly #most: number;
  readonly #windowMs: number;
  #startedMs: number;
  #count = 0;

  constructor(
    clock: Clock,
    { maxRapidFailures, rapidFailureWindow }: { maxRapidFailures: number; rapidFailureWindow: number },
  ) {
    this.#clock = clock;
    this.#most = maxRapidFailures;
    this.#windowMs = rapidFailureWindow * 1_000;
    this.#startedMs = clock.now();
  }

  started(): void {
    this.#startedMs = this.#clock.now();
  }

  /** @returns whether that was one too many. */
  failed(): boolean {
    this.#count = this.#clock.now() - this.#startedMs < this.#windowMs ? this.#count + 1 : 0;
    return this.#count >= this.#most;
  }
}
