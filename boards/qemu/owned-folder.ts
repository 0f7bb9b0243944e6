import { mkdir, mkdtemp, lstat, open, readdir, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import { loadTryLock, type TryLock } from "../../agent/sys/flock.ts";

const prefix = "jmp-agent-qemu-";
const lockName = ".lock";
const attempts = 5;

/** A folder that is this process's own while it lives. Images are large: what a killed agent has left goes when the next one makes such a folder. */
export interface OwnedFolder {
  readonly path: string;
  remove(): Promise<void>;
}

/** @throws the system's error */
export async function makeOwnedFolder(base: string): Promise<OwnedFolder> {
  const tryLock = await loadTryLock().catch(() => undefined);
  await mkdir(base, { recursive: true });
  if (tryLock !== undefined) await removeLeftovers(base, tryLock);
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    const path = await mkdtemp(join(base, prefix));
    const lock = await open(join(path, lockName), "wx", 0o600);
    const remove = async () => {
      await rm(path, { recursive: true, force: true });
      await lock.close();
    };
    if (tryLock === undefined || tryLock(lock.fd, "exclusive")) return { path, remove };
    // Another agent took it for a leftover before we could say that it is ours.
    await lock.close();
  }
  throw new AgentError("E_FAILED", `no folder can be kept in ${base}: all are taken at once`);
}

async function removeLeftovers(base: string, tryLock: TryLock): Promise<void> {
  for (const name of await readdir(base)) {
    if (name.startsWith(prefix)) await removeIfLeft(join(base, name), tryLock).catch(() => {});
  }
}

async function removeIfLeft(path: string, tryLock: TryLock): Promise<void> {
  const found = await lstat(path);
  // In a directory that everybody writes to, the name says nothing.
  if (!found.isDirectory() || found.uid !== process.getuid?.()) return;
  // One without a lock is being made.
  const lock: FileHandle = await open(join(path, lockName), "r");
  try {
    if (tryLock(lock.fd, "exclusive")) await rm(path, { recursive: true, force: true });
  } finally {
    await lock.close();
  }
}
