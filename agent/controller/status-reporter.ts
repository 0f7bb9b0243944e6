import { toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import type { ExporterState } from "../session/status.ts";
import { Backoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import type { ControllerClient } from "./controller-client.ts";

export interface StatusReporterOptions {
  readonly controller: Pick<ControllerClient, "reportStatus">;
  readonly clock: Clock;
  readonly log: Pick<Logger, "warn" | "info">;
  readonly backoff?: Backoff;
}

/** A state to be told, on its way as soon as it is `attempted`. */
interface Report {
  readonly status: ExporterState;
  readonly message: string;
  attempted: boolean;
}

/**
 * Tells the controller how the exporter is, until it has understood: what counts is the state that holds now, not the
 * events that led there. A state that is over before it could be told is left out, except failures: people look for
 * them, so each is tried once.
 */
export class StatusReporter {
  readonly #controller: StatusReporterOptions["controller"];
  readonly #clock: Clock;
  readonly #log: StatusReporterOptions["log"];
  readonly #backoff: Backoff;
  readonly #over = new AbortController();
  readonly #flushing = new Set<() => void>();
  #current: Omit<Report, "attempted"> | undefined;
  /** What is still to be told, in this order. */
  #due: Report[] = [];
  #running = false;
  /** Ends the pause before the next attempt. */
  #wake: AbortController | undefined;
  #unsupported: { told: boolean; now: boolean } = { told: false, now: false };
  #lastFailure: string | undefined;

  constructor({ controller, clock, log, backoff = new Backoff() }: StatusReporterOptions) {
    this.#controller = controller;
    this.#clock = clock;
    this.#log = log;
    this.#backoff = backoff;
  }

  /** What was reported last, whether it is told yet or not. */
  get current(): { readonly status: ExporterState; readonly message: string } | undefined {
    return this.#current;
  }

  report(status: ExporterState, message: string): void {
    this.#current = { status, message };
    this.#due = [...this.#due.filter(mustBeTried), { status, message, attempted: false }];
    this.#tell();
  }

  /** The controller may have forgotten what it was told, or be another one. */
  reconnected(): void {
    this.#unsupported.now = false;
    this.#backoff.reset();
    if (this.#current === undefined) return;
    if (this.#due.at(-1)?.attempted !== false) {
      this.#due = [...this.#due.filter(mustBeTried), { ...this.#current, attempted: false }];
    }
    this.#tell();
  }

  /** Waits until all is told, or cannot be. @throws the signal's reason when it aborts before */
  async flush(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (!this.#running) return;
    await new Promise<void>((resolve, reject) => {
      const end = () => {
        this.#flushing.delete(end);
        signal?.removeEventListener("abort", end);
        if (this.#running) reject(signal?.reason as Error);
        else resolve();
      };
      this.#flushing.add(end);
      signal?.addEventListener("abort", end, { once: true });
    });
  }

  /** Ends at once; what was not told stays so. */
  stop(): void {
    this.#over.abort();
    this.#wake?.abort();
  }

  #tell(): void {
    this.#wake?.abort();
    if (this.#unsupported.now || this.#over.signal.aborted) this.#due = [];
    else if (!this.#running) void this.#run();
  }

  async #run(): Promise<void> {
    this.#running = true;
    for (let next = this.#due[0]; next !== undefined && !this.#over.signal.aborted; next = this.#due[0]) {
      await this.#attempt(next);
    }
    this.#due = [];
    this.#running = false;
    for (const end of [...this.#flushing]) end();
  }

  async #attempt(report: Report): Promise<void> {
    const { status, message } = report;
    report.attempted = true;
    try {
      await this.#controller.reportStatus({ status, message }, this.#over.signal);
      this.#due = this.#due.filter((other) => other !== report);
      this.#worked();
    } catch (thrown) {
      if (this.#over.signal.aborted) return;
      await this.#failed(report, thrown);
    }
  }

  #worked(): void {
    this.#backoff.reset();
    this.#unsupported.told = false;
    if (this.#lastFailure !== undefined) this.#log.info("The controller takes the status again");
    this.#lastFailure = undefined;
  }

  async #failed(report: Report, thrown: unknown): Promise<void> {
    const error = toAgentError(thrown);
    if (error.code === "E_UNSUPPORTED") {
      this.#due = [];
      if (!this.#unsupported.told) {
        this.#log.warn("ReportStatus not supported by controller, status updates will be skipped");
      }
      this.#unsupported = { told: true, now: true };
      return;
    }
    // Hours of outage must not fill the log.
    if (error.message !== this.#lastFailure) this.#log.warn(`Failed to report status, trying again: ${error.message}`);
    this.#lastFailure = error.message;
    const pauseMs = this.#backoff.next(error);
    if (this.#due.at(-1) !== report) {
      // It is over; what holds now is told at once.
      this.#due = this.#due.filter((other) => other !== report);
      return;
    }
    const wake = new AbortController();
    this.#wake = wake;
    await this.#clock.sleep(pauseMs, wake.signal).catch(() => {});
    this.#wake = undefined;
  }
}

function mustBeTried({ status, attempted }: Report): boolean {
  return !attempted && status.endsWith("_FAILED");
}
