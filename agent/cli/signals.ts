import { constants } from "node:os";
import { AgentError } from "../driver/errors.ts";

/** A signal that asks the process to end, and the exit code that tells so. */
export interface StopRequest {
  readonly signal: NodeJS.Signals;
  readonly exitCode: number;
}

/** What the work that a signal ends is given up with, and ends with. */
export class Interrupted extends AgentError {
  readonly exitCode: number;

  constructor({ signal, exitCode }: StopRequest) {
    super("E_CANCELLED", `interrupted by ${signal}`);
    this.exitCode = exitCode;
  }

  /** The interruption that an error is, or was caused by. */
  static in(error: unknown): Interrupted | undefined {
    if (error instanceof Interrupted) return error;
    return error instanceof Error && error.cause !== undefined ? Interrupted.in(error.cause) : undefined;
  }
}

const stopSignals = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"] as const satisfies NodeJS.Signals[];

export interface StopListener {
  /** Settles with the first signal. */
  readonly requested: Promise<StopRequest>;
  /** Aborted with the first signal, by an {@link Interrupted}. */
  readonly signal: AbortSignal;
}

/** The exit code of work that failed: that of the signal that ended it, or 1. */
export function failureCode(signal: AbortSignal): number {
  return Interrupted.in(signal.reason)?.exitCode ?? 1;
}

/**
 * Listens for signals from now on, so that none is lost while the exporter still opens its drivers.
 * @param force called with the exit code when a second signal comes: someone does not want to wait
 * @param patient called for SIGHUP where it asks to stop when the current lease ends; then it is no first signal
 */
export function listenForStop(
  force: (exitCode: number) => void,
  patient?: (request: StopRequest) => void,
): StopListener {
  const aborter = new AbortController();
  const requested = new Promise<StopRequest>((settle) => {
    for (const signal of stopSignals) {
      const request = { signal, exitCode: 128 + constants.signals[signal] };
      process.on(signal, () => {
        if (signal === "SIGHUP" && patient !== undefined) return patient(request);
        if (aborter.signal.aborted) return force(request.exitCode);
        aborter.abort(new Interrupted(request));
        settle(request);
      });
    }
  });
  return { requested, signal: aborter.signal };
}
