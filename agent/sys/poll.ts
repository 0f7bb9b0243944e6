import type { Koffi } from "./native.ts";

/**
 * Calls back whenever a descriptor is readable (or writable), or has an error to fetch, until the returned function is called. Keeps no process
 * alive. For descriptors whose error is fetched by reading: one that stays would be told over and over. libuv watches a descriptor for one purpose
 * at a time.
 */
export function watchDescriptor(
  koffi: Koffi,
  fd: number,
  purpose: "readable" | "writable",
  onReady: (isError: boolean) => void,
): () => void {
  let closed = false;
  const events = { [purpose]: true };
  // koffi 3.3 hands over libuv's status first, other than its types say.
  const ready = ((status: number) => {
    onReady(status < 0);
    // libuv stops to watch a descriptor that has an error (UV_EBADF), were it a passing one.
    if (status < 0 && !closed) poll.start(events, ready);
  }) as unknown as () => void;
  const poll = koffi.node.poll(fd, events, ready);
  poll.unref();
  return () => {
    if (closed) return;
    closed = true;
    poll.close();
  };
}
