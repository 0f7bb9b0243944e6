import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";

const sharedProgram = "/shared/jumpstarter-exec";
const limitMs = 10_000;

/**
 * Where an exporter lives for one lease in a pod, a launcher beside it keeps what belongs to it: it is asked to end
 * too, by its own program, whose place is known or next to its socket. Best effort: the exporter goes in any case.
 */
export async function shutDownLauncher(env: NodeJS.ProcessEnv, log: Pick<Logger, "info" | "warn">): Promise<void> {
  const socket = env["JUMPSTARTER_LAUNCHER_SOCKET"];
  if (!socket) return;
  try {
    const program = (await isExecutable(sharedProgram)) ? sharedProgram : join(dirname(socket), "jumpstarter-exec");
    await promisify(execFile)(program, ["shutdown", "--socket", socket], { timeout: limitMs, killSignal: "SIGKILL" });
    log.info("The launcher is asked to shut down");
  } catch (error) {
    log.warn(`the launcher cannot be shut down: ${toAgentError(error).message}`);
  }
}

function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
