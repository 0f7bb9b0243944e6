import { constants } from "node:fs";
import { mkdir, open, rm, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { loadTryLock, type LockMode, type TryLock } from "../../agent/sys/flock.ts";

/** A lock that is held. */
export interface Lock {
  /** Tells those who wait what is going on. */
  say(text: string): Promise<void>;
  /** Once is enough; more does nothing. */
  release(): Promise<void>;
}

/** How often somebody who waits looks again. */
const lookAgainMs = 100;

const noLocks = new Set(["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL"]);
const notWritable = new Set(["EROFS", "EACCES", "EPERM"]);

/**
 * Locks by name, shared or exclusive, that hold among all processes of this host: files in a directory, locked with flock.
 * What a process had is free when it ends, however it ends. In a directory that cannot be written to there is nothing
 * to protect: everyone gets a shared lock.
 */
export class Locks {
  readonly #directory: string;
  readonly #log: Logger;
  /** Holders in this process; the only truth where there is no flock. */
  readonly #held = new Map<string, { mode: LockMode; holders: number }>();
  readonly #load: () => Promise<TryLock>;
  #loading: Promise<TryLock | undefined> | undefined;

  constructor(directory: string, log: Logger, load = loadTryLock) {
    this.#directory = directory;
    this.#log = log;
    this.#load = load;
  }

  /** False where other processes cannot be seen. */
  async areHostWide(): Promise<boolean> {
    return (await this.#tryLock()) !== undefined;
  }

  /** For names of files that are to be written under an exclusive lock: other processes that cannot be seen have their own. */
  async ownSuffix(): Promise<string> {
    return (await this.areHostWide()) ? "" : `.${process.pid}`;
  }

  /** @returns undefined if somebody has it in a way that does not go together */
  async tryAcquire(name: string, mode: LockMode): Promise<Lock | undefined> {
    const tryLock = await this.#tryLock();
    if (!this.#enter(name, mode)) return undefined;
    try {
      const file = tryLock === undefined ? undefined : await this.#openLocked(name, mode, tryLock);
      if (file === "taken") {
        this.#leave(name);
        return undefined;
      }
      return this.#lockOf(name, file);
    } catch (error) {
      this.#leave(name);
      throw error;
    }
  }

  /** Waits until it is free. @param onWait called each time that it is not */
  async acquire(name: string, mode: LockMode, signal: AbortSignal, onWait: () => void = () => {}): Promise<Lock> {
    for (;;) {
      signal.throwIfAborted();
      const lock = await this.tryAcquire(name, mode);
      if (lock !== undefined) return lock;
      onWait();
      await this.pause(signal);
    }
  }

  /** Until it is worth to look at a lock again. */
  async pause(signal: AbortSignal): Promise<void> {
    await sleep(lookAgainMs, undefined, { signal }).catch((error: unknown) => {
      throw signal.aborted ? signal.reason : error;
    });
  }

  /** What the holder of a lock has said; empty if nothing. */
  async heard(name: string): Promise<string> {
    try {
      const file = await open(join(this.#directory, name));
      try {
        const { buffer, bytesRead } = await file.read(Buffer.alloc(200), 0, 200, 0);
        return buffer.toString("utf8", 0, bytesRead).split("\n")[0] ?? "";
      } finally {
        await file.close();
      }
    } catch {
      return "";
    }
  }

  /** Removes the file of a lock that nobody has. */
  async forget(name: string): Promise<void> {
    const lock = await this.tryAcquire(name, "exclusive");
    if (lock === undefined) return;
    await rm(join(this.#directory, name), { force: true });
    await lock.release();
  }

  #enter(name: string, mode: LockMode): boolean {
    const held = this.#held.get(name);
    if (held === undefined) this.#held.set(name, { mode, holders: 1 });
    else if (mode === "exclusive" || held.mode === "exclusive") return false;
    else held.holders += 1;
    return true;
  }

  #leave(name: string): void {
    const held = this.#held.get(name);
    if (held !== undefined && (held.holders -= 1) === 0) this.#held.delete(name);
  }

  #lockOf(name: string, file: FileHandle | undefined): Lock {
    let isHeld = true;
    return {
      say: async (text) => {
        // Those who wait do without if it cannot be written.
        await file?.write(`${text}\n`, 0).catch(() => {});
      },
      release: async () => {
        if (!isHeld) return;
        isHeld = false;
        this.#leave(name);
        await file?.close();
      },
    };
  }

  /** @returns undefined where there is nothing to lock, as nothing can be written */
  async #openLocked(name: string, mode: LockMode, tryLock: TryLock): Promise<FileHandle | "taken" | undefined> {
    const path = join(this.#directory, name);
    for (;;) {
      const file = await this.#openFile(path, mode);
      if (file === undefined) return undefined;
      let isMine = false;
      try {
        if (!tryLock(file.fd, mode)) return "taken";
        isMine = await isSameFile(file, path);
        if (isMine) return file;
        // Somebody removed the file between opening and locking it: it is nobody's lock.
      } catch (error) {
        if (!isSystemError(error) || !noLocks.has(error.code)) throw error;
        this.#withoutFlock(`the file system of ${this.#directory} has none (${error.code})`);
        return undefined;
      } finally {
        if (!isMine) await file.close();
      }
    }
  }

  async #openFile(path: string, mode: LockMode): Promise<FileHandle | undefined> {
    try {
      await mkdir(this.#directory, { recursive: true });
      return await open(path, constants.O_RDWR | constants.O_CREAT, 0o666);
    } catch (error) {
      if (mode === "exclusive" || !isSystemError(error) || !notWritable.has(error.code)) throw error;
      // Who may only read can still say that he does.
      return await open(path).catch(() => undefined);
    }
  }

  #tryLock(): Promise<TryLock | undefined> {
    this.#loading ??= this.#load().catch((error: unknown) => this.#withoutFlock(toAgentError(error).message));
    return this.#loading;
  }

  #withoutFlock(why: string): undefined {
    this.#log.warn(`bundles are not shared with other processes, as there are no locks between them: ${why}`);
    this.#loading = Promise.resolve(undefined);
    return undefined;
  }
}

async function isSameFile(file: FileHandle, path: string): Promise<boolean> {
  const [opened, named] = await Promise.all([
    file.stat(),
    stat(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    }),
  ]);
  return opened.ino === named?.ino && opened.dev === named.dev;
}
