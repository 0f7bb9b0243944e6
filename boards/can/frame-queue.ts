import type { CanFrame } from "./bus.ts";

interface Waiter {
  readonly take: (frame: CanFrame | undefined) => void;
  readonly fail: (reason: Error) => void;
}

/** Received frames until somebody fetches them. When it is full the oldest give way, as they do in python-can's queues. */
export class FrameQueue {
  readonly #limit: number;
  /** Frames before `#first` are fetched; they are cut off now and then, as taking from the front of a long list is slow. */
  #frames: CanFrame[] = [];
  #first = 0;
  readonly #waiters = new Set<Waiter>();
  #over: { readonly reason: Error } | undefined;
  #dropped = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get length(): number {
    return this.#frames.length - this.#first;
  }

  /** Frames that gave way. */
  get dropped(): number {
    return this.#dropped;
  }

  push(frame: CanFrame): void {
    if (this.#over !== undefined) return;
    const [waiter] = this.#waiters;
    if (waiter !== undefined) {
      waiter.take(frame);
      return;
    }
    this.#frames.push(frame);
    if (this.length > this.#limit) {
      this.#dropped += 1;
      this.#skip();
    }
  }

  /** Gives back a frame that was taken last and did not reach whom it was for. */
  putBack(frame: CanFrame): void {
    if (this.#over !== undefined) return;
    const [waiter] = this.#waiters;
    if (waiter !== undefined) waiter.take(frame);
    else if (this.#first > 0) this.#frames[(this.#first -= 1)] = frame;
    else this.#frames.unshift(frame);
  }

  /** The oldest frame that is there. @throws the reason once it is closed */
  takeNow(): CanFrame | undefined {
    if (this.#over !== undefined) throw this.#over.reason;
    const frame = this.#frames[this.#first];
    if (frame !== undefined) this.#skip();
    return frame;
  }

  /**
   * The oldest frame, or undefined if none comes in time; those who wait are served in the order in which they came.
   * @param timeoutMs undefined: as long as it takes
   * @throws the reason once it is closed, or the signal's
   */
  take(timeoutMs: number | undefined, signal: AbortSignal): Promise<CanFrame | undefined> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const frame = this.takeNow();
      if (frame !== undefined || (timeoutMs !== undefined && timeoutMs <= 0)) return resolve(frame);
      const leave = () => {
        this.#waiters.delete(waiter);
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
      };
      const waiter: Waiter = {
        take: (taken) => {
          leave();
          resolve(taken);
        },
        fail: (reason) => {
          leave();
          reject(reason);
        },
      };
      const onAbort = () => waiter.fail(signal.reason as Error);
      const timer = timeoutMs === undefined ? undefined : setTimeout(() => waiter.take(undefined), timeoutMs);
      signal.addEventListener("abort", onAbort);
      this.#waiters.add(waiter);
    });
  }

  /** Forgets what does not pass. */
  keep(passes: (frame: CanFrame) => boolean): void {
    this.#frames = this.#frames.slice(this.#first).filter(passes);
    this.#first = 0;
  }

  /** Who waits and who comes gets this reason; what was not fetched is forgotten. Idempotent. */
  close(reason: Error): void {
    if (this.#over !== undefined) return;
    this.#over = { reason };
    this.#frames = [];
    this.#first = 0;
    for (const waiter of [...this.#waiters]) waiter.fail(reason);
  }

  #skip(): void {
    this.#first += 1;
    if (this.#first < 1024 || this.#first < this.length) return;
    this.#frames = this.#frames.slice(this.#first);
    this.#first = 0;
  }
}
