import { constants } from "node:fs";
import { mkdir, open, readlink, realpath, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { AgentError } from "../../../agent/driver/errors.ts";

/**
 * `O_PATH` of Linux (asm-generic/fcntl.h; the same on x86, ARM and RISC-V): names a file without opening
 * it, so that even a FIFO or a device can be looked at first.
 */
const O_PATH = 0o10000000;

/**
 * A directory of the host that paths cannot leave, whatever symlinks are put into it and whenever.
 *
 * A path is first pinned by an O_PATH handle, then the kernel is asked where that handle really is, and
 * everything else goes through `/proc/self/fd/N` of the pinned handle: there is no moment between the
 * check and the use in which another file could take its place.
 */
export class ConfinedDirectory {
  readonly realPath: string;

  private constructor(realPath: string) {
    this.realPath = realPath;
  }

  /** Makes the directory if it is missing. */
  static async open(path: string): Promise<ConfinedDirectory> {
    await mkdir(path, { recursive: true });
    return new ConfinedDirectory(await realpath(path));
  }

  /**
   * Pins what the segments lead to, following symlinks that stay inside. The caller closes it.
   * @throws AgentError E_INVALID if it lies outside; ENOENT, ENOTDIR, ELOOP, … as they come
   */
  async pin(segments: readonly string[]): Promise<Pinned> {
    const handle = await open(join(this.realPath, ...segments), O_PATH);
    try {
      const where = await readlink(procPath(handle));
      const inside = where === this.realPath || where.startsWith(this.realPath === "/" ? "/" : `${this.realPath}/`);
      if (inside) return new Pinned(handle, segments.join("/"));
    } catch (error) {
      await handle.close();
      throw error;
    }
    await handle.close();
    throw new AgentError("E_INVALID", `the path leads out of the storage root: ${segments.join("/")}`);
  }

  /** Pins for the time of `work`. */
  async with<T>(segments: readonly string[], work: (pinned: Pinned) => Promise<T>): Promise<T> {
    const pinned = await this.pin(segments);
    try {
      return await work(pinned);
    } finally {
      await pinned.close();
    }
  }

  /** Runs `work` with the path of an entry in its pinned parent. The entry itself may be a symlink or missing. */
  withEntry<T>(segments: readonly string[], work: (path: string) => Promise<T>): Promise<T> {
    const name = segments.at(-1);
    if (name === undefined) throw new AgentError("E_FAILED", "the storage root itself cannot be changed");
    return this.with(segments.slice(0, -1), (parent) => work(join(parent.path, name)));
  }

  /** Makes a directory and its parents; `made` is told of each that was not there before, parents first. */
  async makeDirectory(segments: readonly string[], made: (segments: readonly string[]) => void): Promise<void> {
    try {
      await this.with(segments, async (pinned) => {
        if ((await pinned.handle.stat()).isDirectory()) return;
        throw new AgentError("E_FAILED", `NotADirectory: ${pinned.name} is not a directory`);
      });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT" || segments.length === 0) throw error;
    }
    await this.makeDirectory(segments.slice(0, -1), made);
    await this.withEntry(segments, async (path) => {
      try {
        await mkdir(path);
        made(segments);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
    });
    // Someone else's directory is as good as ours, a dangling symlink is not.
    await this.with(segments, async () => {});
  }
}

/** A file or directory that was found inside, whatever its name stands for by now. */
export class Pinned {
  readonly handle: FileHandle;
  /** As the caller spelled it, for messages. */
  readonly name: string;

  constructor(handle: FileHandle, name: string) {
    this.handle = handle;
    this.name = name;
  }

  /** Leads to exactly this file; valid until `close`. */
  get path(): string {
    return procPath(this.handle);
  }

  /** Opens it as a regular file. @throws AgentError E_FAILED for directories, devices, FIFOs and sockets */
  async openFile(flags: number): Promise<FileHandle> {
    const stat = await this.handle.stat();
    if (stat.isDirectory()) throw new AgentError("E_FAILED", `IsADirectory: ${this.name} is a directory`);
    if (!stat.isFile()) throw new AgentError("E_FAILED", `${this.name} is not a regular file`);
    return open(this.path, flags);
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

function procPath(handle: FileHandle): string {
  return `/proc/self/fd/${handle.fd}`;
}

/** Never follows a symlink at the end and never opens what exists. */
export const createExclusively = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
