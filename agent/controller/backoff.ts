import { AgentError, toAgentError } from "../driver/errors.ts";
import type { ErrorCode } from "../driver/error-codes.ts";
import type { Logger } from "../driver/log.ts";
import type { Clock } from "./clock.ts";

/** Asking a host that does not answer costs next to nothing, and an exporter has to be back within 5 s of its return. */
const silence = { firstMs: 250, mostMs: 2_500 };

/** Who answers and refuses has work with each question, and will not change its mind soon. */
const refusal = { firstMs: 1_000, mostMs: 30_000 };

const silent: ReadonlySet<ErrorCode> = new Set(["E_CONNECTION", "E_TIMEOUT"]);

/** How long to wait after each failure in a row: twice as long each time up to a limit, and never quite the same. */
export class Backoff {
  readonly #random: () => number;
  readonly #failures = new Map<typeof silence, number>();

  constructor({ random = Math.random }: { random?: () => number } = {}) {
    this.#random = random;
  }

  /**
   * @param tookMs how long the attempt itself has waited for a host that said nothing: that long less is waited now
   * @returns milliseconds to wait, between half of the step and all of it
   */
  next(error: AgentError, tookMs = 0): number {
    const kind = silent.has(error.code) ? silence : refusal;
    const failures = this.#failures.get(kind) ?? 0;
    this.#failures.set(kind, failures + 1);
    const step = Math.min(kind.firstMs * 2 ** Math.min(failures, 20), kind.mostMs);
    const share = 0.5 + 0.5 * this.#random();
    return kind === refusal ? step * share : Math.max(step * share - tookMs, kind.firstMs * share);
  }

  reset(): void {
    this.#failures.clear();
  }
}

export interface RetryOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly log: Pick<Logger, "warn" | "info">;
  readonly backoff?: Backoff;
  /** Errors after which there is no use in going on. Default: none. */
  readonly giveUp?: (error: AgentError) => boolean;
}

/** A failure that stays the same is told again after this; days of outage must not fill the log. */
const tellAgainMs = 5 * 60_000;

/**
 * Does something until it succeeds.
 * @param what it is, for the log: `telemetry discovery`
 * @throws AgentError what `giveUp` has chosen; the signal's reason when it aborts
 */
export async function retry<T>(what: string, attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { clock, signal, log, backoff = new Backoff(), giveUp } = options;
  let told: { message: string; atMs: number } | undefined;
  for (;;) {
    signal.throwIfAborted();
    let error: AgentError;
    try {
      const result = await attempt();
      backoff.reset();
      if (told !== undefined) log.info(`${what}: works again`);
      return result;
    } catch (thrown) {
      signal.throwIfAborted();
      error = toAgentError(thrown);
      if (giveUp?.(error) === true) throw error;
    }
    const now = clock.now();
    if (error.message !== told?.message || now - told.atMs >= tellAgainMs) {
      log.warn(`${what} failed, trying again: ${error.message}`);
      told = { message: error.message, atMs: now };
    }
    await clock.sleep(backoff.next(error), signal);
  }
}
