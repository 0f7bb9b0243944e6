import type { Moment } from "./protocol.ts";

/** The moment that is now; of this machine's boot, so that it also compares after a restart of the agent. */
export function momentNow(): Moment {
  return { wallUs: Date.now() * 1_000, monotonicUs: Number(process.hrtime.bigint() / 1_000n) };
}
