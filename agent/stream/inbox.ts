interface Waiter {
  readonly give: (message: Uint8Array | undefined) => void;
}

export interface WaitOptions {
  /** Undefined: until there is a message. */
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal;
}

/** Longer timeouts than a timer takes mean: forever. */
const longestTimerMs = 0x7fff_ffff;

/** Received messages, until somebody fetches them. */
export class Inbox {
  readonly #limits: { readonly messages: number; readonly bytes: number };
  readonly #messages: Uint8Array[] = [];
  readonly #waiters: Waiter[] = [];
  #bytes = 0;

  constructor(limits: { readonly messages: number; readonly bytes: number }) {
    this.#limits = limits;
  }

  get empty(): boolean {
    return this.#messages.length === 0;
  }

  /** A single message may be as long as it likes. */
  hasRoom(bytes: number): boolean {
    if (this.#messages.length === 0) return true;
    return this.#messages.length < this.#limits.messages && this.#bytes + bytes <= this.#limits.bytes;
  }

  put(message: Uint8Array): void {
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) return waiter.give(message);
    this.#messages.push(message);
    this.#bytes += message.length;
  }

  take(): Uint8Array | undefined {
    const message = this.#messages.shift();
    this.#bytes -= message?.length ?? 0;
    return message;
  }

  /** The next message; undefined when the time is over. A message is never lost to a caller that has given up. */
  wait({ timeoutMs, signal }: WaitOptions): Promise<Uint8Array | undefined> {
    const already = this.take();
    if (already !== undefined) return Promise.resolve(already);
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const leave = () => {
        const index = this.#waiters.indexOf(waiter);
        if (index !== -1) this.#waiters.splice(index, 1);
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
      };
      const onAbort = () => {
        leave();
        reject(signal.reason as Error);
      };
      const waiter: Waiter = {
        give: (message) => {
          leave();
          resolve(message);
        },
      };
      const isTimed = timeoutMs !== undefined && timeoutMs <= longestTimerMs;
      const timer = isTimed ? setTimeout(waiter.give, Math.max(0, timeoutMs), undefined) : undefined;
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiters.push(waiter);
    });
  }

  clear(): void {
    this.#messages.length = 0;
    this.#bytes = 0;
  }
}
