import { lstat, mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AgentError, isSystemError, toAgentError } from "../driver/errors.ts";

/** Where a service manager's agents are, which their user's shell is not told about. */
export const systemDirectory = "/run/jumpstarter-agent/control";

/** Where an agent of this user may have its socket; the first whose parent is there is taken. */
function ownDirectories(env: NodeJS.ProcessEnv): string[] {
  // systemd lists several, separated by colons.
  const runtime = env["RUNTIME_DIRECTORY"]?.split(":")[0];
  const user = env["XDG_RUNTIME_DIR"];
  return [
    ...(runtime ? [join(runtime, "control")] : []),
    ...(user ? [join(user, "jumpstarter-agent")] : []),
    join(env["TMPDIR"] || tmpdir(), `jumpstarter-agent-${process.getuid?.() ?? ""}`),
  ];
}

/** All places where a tool looks for agents. */
export function searchedDirectories(env: NodeJS.ProcessEnv): string[] {
  return [...new Set([...ownDirectories(env), systemDirectory])];
}

/**
 * Makes the directory, or checks that the one that is there is ours alone: in a public place anybody may have made it.
 * @throws AgentError E_IO
 */
export async function claimControlDirectory(env: NodeJS.ProcessEnv): Promise<string> {
  for (const directory of ownDirectories(env)) {
    try {
      await mkdir(directory, { mode: 0o700 });
    } catch (error) {
      if (!isSystemError(error)) throw error;
      // XDG_RUNTIME_DIR often names what is not there, as after a change of the user.
      if (error.code === "ENOENT" || error.code === "EACCES") continue;
      if (error.code !== "EEXIST") throw toAgentError(error);
    }
    const problem = await whyNotOurs(directory);
    if (problem !== undefined) throw new AgentError("E_IO", `${directory} ${problem}`);
    return directory;
  }
  throw new AgentError("E_IO", "there is no directory for temporary files");
}

/** Why a directory cannot be trusted; undefined if it can, or is not there. */
export async function whyNotOurs(directory: string): Promise<string | undefined> {
  const found = await lstat(directory).catch((error: unknown) => {
    return isSystemError(error) && ["ENOENT", "ENOTDIR"].includes(error.code) ? undefined : toAgentError(error);
  });
  if (found === undefined) return undefined;
  if (found instanceof AgentError) return `cannot be looked at: ${found.message}`;
  if (!found.isDirectory()) return "is not a directory";
  // /run is root's: whoever has a directory there was given it. Root's own tools ask the service's agents, which are another user's.
  const isGiven = directory === systemDirectory && process.getuid?.() === 0;
  if (found.uid !== process.getuid?.() && !isGiven) return "belongs to another user";
  return (found.mode & 0o077) === 0 ? undefined : "is open to other users: chmod 700 it";
}
