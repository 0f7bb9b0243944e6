import { loadKoffi, systemError } from "./native.ts";

/** Locks on open files, of which all processes of a host know (flock(2)). Numbers: sys/file.h; a test compares them with C's. */
export const operations = { LOCK_SH: 1, LOCK_EX: 2, LOCK_NB: 4 } as const;

/** Errors that say that somebody else has the lock, or a signal came between. */
const taken = new Set(["EAGAIN", "EINTR"]);

export type LockMode = "shared" | "exclusive";

/**
 * Locks an open file if that can be done at once. The lock belongs to this opening of the file, not to the process, and
 * ends when it is closed, also by the end of the process.
 * @returns whether it is locked
 * @throws the system's error: ENOLCK or EOPNOTSUPP where the file system has no locks
 */
export type TryLock = (fd: number, mode: LockMode) => boolean;

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded */
export async function loadTryLock(): Promise<TryLock> {
  const koffi = await loadKoffi();
  const flock = koffi.load(null).func("int flock(int fd, int operation)") as (fd: number, operation: number) => number;
  return (fd, mode) => {
    const operation = mode === "shared" ? operations.LOCK_SH : operations.LOCK_EX;
    if (flock(fd, operation | operations.LOCK_NB) === 0) return true;
    const error = systemError(koffi.errno(), "flock");
    if (taken.has(error.code ?? "")) return false;
    throw error;
  };
}
