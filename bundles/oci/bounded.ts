import { anySignal } from "../../agent/sys/any-signal.ts";
/**
 * Does something with each item, a few at a time, in order. The first failure stops the others and is thrown once
 * nothing is under way any more.
 * @param work gets a signal that is also aborted when another item has failed
 */
export async function forEachBounded<T>(
  items: Iterable<T>,
  { most, signal }: { most: number; signal: AbortSignal },
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const failed = new AbortController();
  const either = anySignal([signal, failed.signal]);
  const left = items[Symbol.iterator]();
  const worker = async () => {
    for (let next = left.next(); next.done !== true; next = left.next()) {
      either.throwIfAborted();
      await work(next.value, either).catch((error: unknown) => {
        failed.abort(error);
        throw error;
      });
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: most }, worker));
  if (failed.signal.aborted) throw failed.signal.reason;
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}
