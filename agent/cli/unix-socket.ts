import { lstat, stat, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { dirname, resolve } from "node:path";
import { AgentError, isSystemError } from "../driver/errors.ts";

/** `sun_path` of unix(7) holds 108 bytes with the final zero. */
const maxPathBytes = 107;

/**
 * Makes sure that a socket can be bound at `path`: removes what a dead process left there, and nothing else.
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
  const directory = await lstatIfThere(parent, { follow: true });
  if (!directory?.isDirectory()) throw new AgentError("E_IO", `--unix: ${parent} is not a directory`);
  const there = await lstatIfThere(path);
  if (there === undefined) return;
  if (!there.isSocket()) throw new AgentError("E_IO", `--unix: ${path} exists and is not a socket`);
  if (await isServed(path)) throw new AgentError("E_IO", `--unix: another process already serves on ${path}`);
  await unlink(path);
}

async function lstatIfThere(path: string, { follow = false } = {}) {
  try {
    return follow ? await stat(path) : await lstat(path);
  } catch (thrown) {
    if (isSystemError(thrown) && thrown.code === "ENOENT") return undefined;
    throw thrown;
  }
}

/** Whether someone accepts connections there. A socket without a listener refuses at once. */
function isServed(path: string): Promise<boolean> {
  return new Promise((settle) => {
    const socket = connect(path);
    socket
      .once("connect", () => settle(true))
      .once("error", (error: NodeJS.ErrnoException) => {
        settle(error.code !== "ECONNREFUSED" && error.code !== "ENOENT");
      });
    socket.once("connect", () => socket.destroy());
  });
}
