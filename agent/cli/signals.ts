import { constants } from "node:os";

/** A signal that asks the process to end, and the exit code that tells so. */
export interface StopRequest {
  readonly signal: NodeJS.Signals;
  readonly exitCode: number;
}

/** SIGHUP asks to stop when the current lease ends; an exporter without a controller has none and stops at once. */
const stopSignals = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"] as const satisfies NodeJS.Signals[];

/**
 * Listens for signals from now on, so that none is lost while the exporter still opens its drivers.
 * @param force called with the exit code when a second signal comes: someone does not want to wait
 */
export function listenForStop(force: (exitCode: number) => void): {
  /** Settles with the first signal. */
  readonly requested: Promise<StopRequest>;
  /** Aborted with the first signal. */
  readonly signal: AbortSignal;
} {
  const aborter = new AbortController();
  const requested = new Promise<StopRequest>((settle) => {
    for (const signal of stopSignals) {
      process.on(signal, () => {
        const exitCode = 128 + constants.signals[signal];
        if (aborter.signal.aborted) return force(exitCode);
        aborter.abort();
        settle({ signal, exitCode });
      });
    }
  });
  return { requested, signal: aborter.signal };
}
