import { lstat, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killLeftoverHooks } from "../hooks/leftovers.ts";

const prefix = "jumpstarter-";

/** Leases have private directories for their hooks' socket, in a place that is in memory where the system has one. */
export function leaseParentDirectory(env: NodeJS.ProcessEnv): string {
  return env["XDG_RUNTIME_DIR"] || tmpdir();
}

/** What `mkdtemp` takes. The process is in the name, so that the next one finds what this one could not remove. */
export function leaseDirectoryPrefix(env: NodeJS.ProcessEnv): string {
  return join(leaseParentDirectory(env), `${prefix}${process.pid}-`);
}

/** Removes what agents that were killed have left: directories, and the hooks that ran in them. */
export async function removeDeadLeases(env: NodeJS.ProcessEnv): Promise<void> {
  const parent = leaseParentDirectory(env);
  for (const name of await readdir(parent).catch(() => [])) {
    const [, pid] = /^jumpstarter-(\d+)-\w{6}$/.exec(name) ?? [];
    if (pid === undefined || isAlive(Number(pid))) continue;
    const directory = join(parent, name);
    const found = await lstat(directory).catch(() => undefined);
    // Anybody can make a directory of this name in a public place.
    if (found?.isDirectory() !== true || found.uid !== process.getuid?.()) continue;
    await killLeftoverHooks(directory);
    await rm(directory, { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
