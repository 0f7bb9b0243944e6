import { stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { AgentError, isSystemError } from "../driver/errors.ts";
import { removeDeadSocket } from "../session/unix-socket.ts";

/** `sun_path` of unix(7) holds 108 bytes with the final zero. */
const maxPathBytes = 107;

/**
 * Makes sure that a socket can be bound at `path` before any driver is opened.
 * @throws AgentError E_USAGE for a path that cannot be one, E_IO where something else stands or lives
 */
export async function claimSocketPath(path: string): Promise<void> {
  if (Buffer.byteLength(path) > maxPathBytes) {
    throw new AgentError(
      "E_USAGE",
      `--unix: the path is longer than the ${maxPathBytes} bytes a socket may have: ${path}`,
    );
  }
  if (/:\d+$/.test(path)) {
    throw new AgentError("E_USAGE", `--unix: clients would take ${path} for a TCP address, choose another name`);
  }
  const parent = dirname(resolve(path));
  const there = await stat(parent).catch((thrown: unknown) => {
    if (isSystemError(thrown) && thrown.code === "ENOENT") return undefined;
    throw thrown;
  });
  if (!there?.isDirectory()) throw new AgentError("E_IO", `--unix: ${parent} is not a directory`);
  await removeDeadSocket(path);
}
