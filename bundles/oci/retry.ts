import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";

/** Waits before the second and third attempt at something that the connection broke. */
const retryDelaysMs = [500, 2_000];

/** Tries again when the connection broke, not when the content is wrong. */
export async function withRetries<T>(attempt: () => Promise<T>, { signal }: { signal: AbortSignal }): Promise<T> {
  for (let failures = 0; ; failures += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const delayMs = retryDelaysMs[failures];
      if (delayMs === undefined || !isUnreachable(error)) throw error;
      await sleep(delayMs, undefined, { signal });
    }
  }
}

/** True for errors that say nothing about the content, only about the way to it. */
export function isUnreachable(error: unknown): error is AgentError {
  return error instanceof AgentError && (error.code === "E_CONNECTION" || error.code === "E_TIMEOUT");
}
