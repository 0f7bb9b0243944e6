import type { Koffi } from "./native.ts";

/**
 * Calls back whenever a descriptor is readable, or has an error to fetch, until the returned function is called. Keeps no process alive.
 * For sockets whose error is fetched by reading: one that stays would be told over and over.
 */
export function watchReadable(koffi: Koffi, fd: number, onReady: () => void): () => void {
  let closed = false;
  // koffi 3.3 hands over libuv's status first, other than its types say.
  const ready = ((status: number) => {
    onReady();
    // libuv stops to watch a descriptor that has an error (UV_EBADF), were it a passing one.
    if (status < 0 && !closed) poll.start({ readable: true }, ready);
  }) as unknown as () => void;
  const poll = koffi.node.poll(fd, { readable: true }, ready);
  poll.unref();
  return () => {
    if (closed) return;
    closed = true;
    poll.close();
  };
}
