/** What ends with a measurement, as `t.after` has it for a test. */
export class Cleanup {
  readonly #steps: (() => unknown)[] = [];

  after(step: () => unknown): void {
    this.#steps.push(step);
  }

  /** Undoes what a part of the work has started when that part is over, also when it fails; at the latest with this. */
  async during<T>(work: (life: Cleanup) => Promise<T>): Promise<T> {
    const inner = new Cleanup();
    this.after(() => inner.end());
    try {
      return await work(inner);
    } finally {
      await inner.end();
    }
  }

  /** Last in, first out. Idempotent. */
  async end(): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) await step();
  }
}
