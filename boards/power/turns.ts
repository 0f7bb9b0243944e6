/** Commands to a device that can do one thing at a time: each waits until those before it are done. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** @throws what `step` throws; the reason of the signal if it is aborted before its turn comes */
  take<T>(signal: AbortSignal, step: () => Promise<T>): Promise<T> {
    const done = this.#last.then(() => {
      signal.throwIfAborted();
      return step();
    });
    this.#last = done.catch(() => {});
    return done;
  }
}
