import { lstat, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { AgentError, isSystemError } from "../driver/errors.ts";

/**
 * Removes the socket that a dead process left at `path`, and nothing else.
 * @throws AgentError E_IO where something else stands, or someone serves
 */
export async function removeDeadSocket(path: string): Promise<void> {
  try {
    if (!(await lstat(path)).isSocket()) throw new AgentError("E_IO", `${path} exists and is not a socket`);
    if (await isServed(path)) throw new AgentError("E_IO", `another process already serves on ${path}`);
    await unlink(path);
  } catch (thrown) {
    if (!isSystemError(thrown) || thrown.code !== "ENOENT") throw thrown;
  }
}

/** Whether someone accepts connections there. A socket without a listener refuses at once. */
function isServed(path: string): Promise<boolean> {
  return new Promise((settle) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      settle(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      settle(error.code !== "ECONNREFUSED" && error.code !== "ENOENT");
    });
  });
}
