import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";

/** Waits before the second and third attempt at something that the connection broke. */
const retryDelaysMs = [500, 2_000];
/** Who wants us to wait for longer is not waited for. */
const longestAskedDelayMs = 60_000;

/** A registry that is too busy now, and may have said for how long. */
export class Busy extends AgentError {
  /** Undefined if it did not say. */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, retryAfterMs: number | undefined) {
    const hint = retryAfterMs === undefined ? undefined : `it wants to be asked again in ${retryAfterMs / 1000} s`;
    super("E_CONNECTION", message, { hint });
    this.retryAfterMs = retryAfterMs;
  }
}

export interface RetryOptions {
  readonly signal: AbortSignal;
  /** Asked after a failure: whether something was gained, so that the next attempt counts as the first. */
  readonly hasProgressed?: () => boolean;
  /** Waits only for who asks for it: what cannot be reached fails at once. */
  readonly onlyWhenAsked?: boolean;
}

/**
 * Tries again when the connection broke or the peer is busy, not when the content is wrong. A peer that says when to come
 * back (Retry-After) is asked again then.
 */
export async function withRetries<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal, hasProgressed, onlyWhenAsked = false } = options;
  for (let failures = 0; ; failures += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (!isUnreachable(error)) throw error;
      const askedMs = error instanceof Busy ? error.retryAfterMs : undefined;
      if (hasProgressed?.() === true) failures = -1;
      // After progress, waiting would only make a slow link slower.
      const delayMs = failures < 0 ? 0 : retryDelaysMs[failures];
      const isHopeless = askedMs === undefined ? onlyWhenAsked : askedMs > longestAskedDelayMs;
      if (delayMs === undefined || isHopeless) throw error;
      await sleep(askedMs ?? delayMs, undefined, { signal }).catch(() => {
        throw signal.reason;
      });
    }
  }
}

/** True for errors that say nothing about the content, only about the way to it. */
export function isUnreachable(error: unknown): error is AgentError {
  return error instanceof AgentError && (error.code === "E_CONNECTION" || error.code === "E_TIMEOUT");
}

/**
 * Reads a Retry-After header (RFC 9110, 10.2.3): seconds, or a date.
 * @returns undefined if there is none that makes sense
 */
export function readRetryAfter(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const ms = /^\d{1,9}$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}
