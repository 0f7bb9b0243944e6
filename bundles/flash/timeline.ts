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

/** Runs named steps, keeps their times, and remembers which failed first. */
export class Timeline {
  readonly steps: FlashStep[] = [];
  readonly #startMs = performance.now();
  readonly #events: TimelineEvents;
  /** The step that failed first. */
  failed: { readonly step: string; readonly error: AgentError } | undefined;

  constructor(events: TimelineEvents = {}) {
    this.#events = events;
  }

  get elapsedMs(): number {
    return Math.round(performance.now() - this.#startMs);
  }

  /** @throws AgentError what `work` threw */
  async step<T>(name: string, work: (progress: (done: number, total: number) => void) => Promise<T>): Promise<T> {
    const startMs = this.elapsedMs;
    let bytes: number | undefined;
    this.#events.begin?.(name);
    const end = (verdict: FlashStep["verdict"]) => {
      this.#end({
        name,
        startMs,
        durationMs: this.elapsedMs - startMs,
        verdict,
        ...(bytes !== undefined && { bytes }),
      });
    };
    try {
      const result = await work((done, total) => {
        bytes = done;
        this.#events.progress?.(name, done, total);
      });
      end("ok");
      return result;
    } catch (thrown) {
      const error = toAgentError(thrown);
      this.failed ??= { step: name, error };
      end("failed");
      throw error;
    }
  }

  #end(step: FlashStep): void {
    this.steps.push(step);
    this.#events.end?.(step);
  }
}
