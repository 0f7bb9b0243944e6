import { constants } from "node:os";

/** A signal that asks the process to end, and the exit code that tells so. */
export interface StopRequest {
  readonly signal: NodeJS.Signals;
  readonly exitCode: number;
}

const stopSignals = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"] as const satisfies NodeJS.Signals[];

export interface StopListener {
  /** Settles with the first signal. */
  readonly requested: Promise<StopRequest>;
  /** Aborted with the first signal. */
  readonly signal: AbortSignal;
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
        aborter.abort();
        settle(request);
      });
    }
  });
  return { requested, signal: aborter.signal };
}
