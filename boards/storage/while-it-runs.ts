import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";

/** Nobody sees more. */
const leastMs = 200;

/**
 * Yields the newest of what a work tells of itself, a few times a second, and at last what it returns. Leaving the loop gives the work up and
 * waits until it has ended.
 */
export async function* whileItRuns<Item>(
  work: (tell: (item: Item) => void, signal: AbortSignal) => Promise<Item>,
): AsyncGenerator<Item, void, undefined> {
  const aborter = new AbortController();
  let newest: Item | undefined;
  let isRunning = true;
  let wake = (): void => {};
  const tell = (item: Item): void => {
    newest = item;
    wake();
  };
  const running = work(tell, aborter.signal);
  const ended = running
    .catch(() => {})
    .then(() => {
      isRunning = false;
      wake();
    });
  try {
    for (;;) {
      if (newest === undefined && isRunning) await new Promise<void>((resolve) => (wake = resolve));
      if (!isRunning) break;
      const item = newest;
      newest = undefined;
      if (item !== undefined) yield item;
      await Promise.race([ended, sleep(leastMs, undefined, { ref: false })]);
    }
    yield await running;
  } finally {
    aborter.abort(new AgentError("E_CANCELLED", "nobody waits for it any more"));
    await ended;
  }
}
