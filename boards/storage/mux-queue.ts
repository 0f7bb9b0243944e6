/** Runs one operation after the other; whoever gives up while it waits is not run. */
export class MuxQueue {
  #tail: Promise<unknown> = Promise.resolve();
  #length = 0;

  /** Something runs or waits. */
  get isBusy(): boolean {
    return this.#length > 0;
  }

  run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    this.#length += 1;
    const before = this.#tail;
    const result = before.then(() => {
      signal.throwIfAborted();
      return work();
    });
    this.#tail = result.catch(() => {}).then(() => (this.#length -= 1));
    return result;
  }
}
