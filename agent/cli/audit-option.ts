import { access, constants } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import { openAuditLog, type AuditLog } from "../ops/audit.ts";

/**
 * Opens the log that `--audit-log` names, if it does. Records that are lost later only cost a warning; a place that
 * cannot hold any is told at once.
 * @throws AgentError E_USAGE
 */
export async function openAudit(file: string | undefined, log: Pick<Logger, "warn">): Promise<AuditLog | undefined> {
  if (file === undefined) return undefined;
  try {
    await access(dirname(resolve(file)), constants.W_OK | constants.X_OK);
  } catch (thrown) {
    throw new AgentError("E_USAGE", `--audit-log: ${toAgentError(thrown).message}`, { cause: thrown });
  }
  return openAuditLog({ file, warn: (message) => log.warn(message) });
}
