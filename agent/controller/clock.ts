import { setTimeout as sleep } from "node:timers/promises";

/** The time that the controller room waits by. Tests put a clock in its place that runs two hours in a second. */
export interface Clock {
  /** Milliseconds since some moment; never goes back, whatever happens to the wall clock. */
  now(): number;
  /** The time of day, which may be wrong: a board without a battery starts in 1970. */
  wall(): Date;
  /** @throws the signal's reason when it aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => new Date(),
  sleep: async (ms, signal) => {
    try {
      await sleep(ms, undefined, signal === undefined ? {} : { signal });
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    }
  },
};
