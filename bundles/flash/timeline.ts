import { type AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { FlashStep } from "../../agent/driver/receipt.ts";

export interface TimelineEvents {
  /** A step begins. */
  begin?(step: string): void;
  /** A step knows how far it is, in bytes. */
  progress?(step: string, doneBytes: number, totalBytes: number): void;
  /** A step has ended. */
  end?(step: FlashStep): void;
}

/** Runs named steps, keeps their times, and remembers which failed first in the attempt that counts. */
export class Timeline {
  readonly steps: FlashStep[] = [];
  readonly #startMs = performance.now();
  readonly #events: TimelineEvents;
  #attempt: number | undefined;
  #failed: { readonly step: string; readonly error: AgentError } | undefined;

  constructor(events: TimelineEvents = {}) {
    this.#events = events;
  }

  /** The step that failed first, since the last attempt began. */
  get failed(): { readonly step: string; readonly error: AgentError } | undefined {
    return this.#failed;
  }

  /** Steps that begin from now on belong to this attempt, and what failed before does not count. */
  beginAttempt(attempt: number): void {
    this.#attempt = attempt;
    this.#failed = undefined;
  }

  /** Steps that begin from now on are done once. */
  endAttempts(): void {
    this.#attempt = undefined;
  }

  get elapsedMs(): number {
    return Math.round(performance.now() - this.#startMs);
  }

  /** @throws AgentError what `work` threw */
  async step<T>(name: string, work: (progress: (done: number, total: number) => void) => Promise<T>): Promise<T> {
    const startMs = this.elapsedMs;
    const attempt = this.#attempt;
    let bytes: number | undefined;
    const end = (verdict: FlashStep["verdict"]) => {
      const durationMs = this.elapsedMs - startMs;
      const step = {
        name,
        startMs,
        durationMs,
        verdict,
        ...(bytes !== undefined && { bytes }),
        ...(attempt && { attempt }),
      };
      this.steps.push(step);
      this.#events.end?.(step);
    };
    this.#events.begin?.(name);
    try {
      const result = await work((done, total) => {
        bytes = done;
        this.#events.progress?.(name, done, total);
      });
      end("ok");
      return result;
    } catch (thrown) {
      const error = toAgentError(thrown);
      this.#failed ??= { step: name, error };
      end("failed");
      throw error;
    }
  }
}
