import { toAgentError } from "../driver/errors.ts";
import type { ErrorCode } from "../driver/error-codes.ts";
import type { Logger } from "../driver/log.ts";
import { retry } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import type { ControllerClient } from "./controller-client.ts";
import type { StatusReporter } from "./status-reporter.ts";

export interface ReleaseOptions {
  readonly controller: ControllerClient;
  readonly reporter: StatusReporter;
  readonly clock: Clock;
  readonly log: Pick<Logger, "warn" | "info" | "debug">;
  /** Ends the attempts, however far they got. */
  readonly signal: AbortSignal;
}

/** What controllers answer that let only clients release leases (before 0.9), each in its own way. */
const refusals: ReadonlySet<ErrorCode> = new Set([
  "E_PERMISSION_DENIED",
  "E_INVALID",
  "E_UNAUTHENTICATED",
  "E_UNSUPPORTED",
]);

/** What goes away by itself. */
const passing: ReadonlySet<ErrorCode> = new Set(["E_CONNECTION", "E_TIMEOUT"]);

const compatMessage = "Lease released (compat: ReportStatus with release_lease)";

/**
 * Gives a lease back to the controller: by ReleaseLease, or the way that older controllers know. Failures are logged;
 * the exporter goes on in any case.
 * @throws the signal's reason when it aborts before an end
 */
export async function releaseLease(lease: string, options: ReleaseOptions): Promise<void> {
  const { controller, clock, log, signal } = options;
  const attempt = async (call: () => Promise<void>) => {
    await retry(`Releasing lease ${lease}`, call, { clock, signal, log, giveUp: ({ code }) => !passing.has(code) });
  };
  try {
    if (controller.lacks.has("ReleaseLease")) {
      await attempt(() => releaseByStatus(options));
      return;
    }
    try {
      await attempt(() => controller.releaseLease(lease, signal));
    } catch (thrown) {
      signal.throwIfAborted();
      if (!refusals.has(toAgentError(thrown).code)) throw thrown;
      log.debug(`ReleaseLease was refused (${toAgentError(thrown).message}), trying the older way`);
      await attempt(() => releaseByStatus(options));
      // A token that has just run out is refused both ways, and says nothing about the controller.
      controller.lacks.add("ReleaseLease");
    }
  } catch (thrown) {
    signal.throwIfAborted();
    if (toAgentError(thrown).code === "E_NO_METHOD") return; // NOT_FOUND: the lease is gone already
    log.warn(`Failed to release lease ${lease}: ${toAgentError(thrown).message}`);
  }
}

async function releaseByStatus({ controller, reporter, signal }: ReleaseOptions): Promise<void> {
  const current = reporter.current?.status ?? "AVAILABLE";
  // To an exporter that is available a new lease could be given, and a second attempt would end that one.
  const status = current === "AVAILABLE" ? "AFTER_LEASE_HOOK" : current;
  await controller.reportStatus({ status, message: compatMessage, releaseLease: true }, signal);
  // The controller has now been told what may not be so.
  if (status !== current) reporter.reconnected();
}
