import type { Logger } from "../driver/log.ts";
import type { Clock } from "./clock.ts";

/** This program was written after it. A clock that shows an earlier day has not been set. */
export const earliestTime = new Date("2025-01-01T00:00:00Z");

const limitMs = 2 * 60_000;
const lookMs = 1_000;

export interface WaitForTimeOptions {
  readonly clock: Clock;
  readonly log: Pick<Logger, "warn" | "info">;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits until the time of day is set, as certificates and tokens are not valid before their time: a board without a
 * battery starts in 1970 and learns the time from the network. After two minutes it goes on all the same.
 * @returns also when the signal aborts
 */
export async function waitForTime({ clock, log, signal }: WaitForTimeOptions): Promise<void> {
  const isSet = () => clock.wall() >= earliestTime;
  const told = () => clock.wall().toISOString();
  if (isSet()) return;
  log.warn(`The clock shows ${told()}: waiting until the time is set, for ${limitMs / 1_000} s at most`);
  const end = clock.now() + limitMs;
  while (!isSet() && clock.now() < end) {
    await clock.sleep(lookMs, signal).catch(() => {});
    if (signal?.aborted === true) return;
  }
  if (isSet()) log.info(`The time is set: ${told()}`);
  else log.warn(`The time is still not set: going on at ${told()}, where certificates may not be valid yet`);
}
