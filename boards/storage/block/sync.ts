import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../../agent/driver/errors.ts";
import type { Logger } from "../../../agent/driver/log.ts";
import type { OpenDisk } from "./disk.ts";

const syncAgainAfterMs = 1_000;

/**
 * Repeats fsync while the device answers EIO, as readers do that are busy or were reset.
 * @returns how often it failed. @throws AgentError E_TIMEOUT, E_IO, E_DEVICE_OFFLINE
 */
export async function syncUntil(
  disk: OpenDisk,
  { fsyncTimeoutMs }: { readonly fsyncTimeoutMs: number },
  { signal, log }: { readonly signal: AbortSignal; readonly log: Logger },
): Promise<{ failures: number }> {
  const deadlineMs = performance.now() + fsyncTimeoutMs;
  for (let failures = 0; ; failures += 1) {
    signal.throwIfAborted();
    try {
      await disk.file.sync();
      return { failures };
    } catch (error) {
      if (!(await disk.isThere())) {
        throw new DeviceOffline(`the medium of ${disk.name} has gone before all was on it`, { cause: error });
      }
      if (!isSystemError(error) || error.code !== "EIO") {
        throw new AgentError("E_IO", `fsync of ${disk.name} failed: ${toAgentError(error).message}`, { cause: error });
      }
      if (performance.now() >= deadlineMs) {
        const seconds = fsyncTimeoutMs / 1_000;
        throw new AgentError("E_TIMEOUT", `fsync of ${disk.name} failed for storage_fsync_timeout (${seconds} s)`, {
          cause: error,
        });
      }
      log.warn(`fsync of ${disk.name}: EIO, trying again`);
      await sleep(syncAgainAfterMs, undefined, { signal });
    }
  }
}
