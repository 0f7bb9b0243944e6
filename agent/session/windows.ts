import type { ServerHttp2Session } from "node:http2";

/**
 * How far a sender may run ahead of us, per byte stream and per connection. HTTP/2 begins with 64 KiB, which is
 * 3 MB/s at 20 ms round trip. A window is also what a slow disk may leave in our memory, so all byte streams of a
 * connection share one budget.
 */
const budgetBytes = 64 * 1024 * 1024;
const largestBytes = 32 * 1024 * 1024;
const smallestBytes = 256 * 1024;

/** Each byte stream's window while `streams` of them are open: the budget's part, rounded down to a power of two. */
export function windowFor(streams: number): number {
  const share = budgetBytes / Math.max(1, streams);
  return Math.max(smallestBytes, Math.min(largestBytes, 2 ** Math.floor(Math.log2(share))));
}

/** Keeps the advertised windows of all connections at what {@link windowFor} says. */
export class ReceiveWindows {
  readonly initialSettings = { initialWindowSize: windowFor(1) };
  readonly #streams = new WeakMap<ServerHttp2Session, number>();

  opened(session: ServerHttp2Session): void {
    // Node hands connection window back as soon as bytes arrive; it must only never be the narrow place.
    session.setLocalWindowSize(budgetBytes);
  }

  /** @returns a function to call when the stream has ended. */
  streamStarted(session: ServerHttp2Session | undefined): () => void {
    if (session === undefined) return () => {};
    this.#count(session, 1);
    return () => this.#count(session, -1);
  }

  #count(session: ServerHttp2Session, change: number): void {
    const before = this.#streams.get(session) ?? 0;
    const now = before + change;
    this.#streams.set(session, now);
    const size = windowFor(now);
    if (size !== windowFor(before) && !session.destroyed && !session.closed) {
      session.settings({ initialWindowSize: size });
    }
  }
}
