import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import {
  link,
  lstat,
  mkdir,
  open,
  readdir,
  readlink,
  realpath,
  rename,
  statfs,
  unlink,
  type FileHandle,
} from "node:fs/promises";
import { join } from "node:path";
import { AgentError, isSystemError } from "../agent/driver/errors.ts";
import { isBelow, refusalOf, type Refusal } from "./files.ts";

/** Where boards may leave files, how large each may be, and how many. */
export interface Uploads {
  readonly folder: string;
  readonly maxBytes: number;
  /** In a folder, with what else lies there; 10,000 unless given. */
  readonly maxFiles?: number;
}

const partialName = /^\.upload-[0-9a-f]{16}\.part$/;
/** No upload goes on for so long. */
const abandonedMs = 2 * 3_600_000;

/** Makes the folder, and takes away what an agent that was killed had begun there. @throws the system's error */
export async function openUploads({ folder }: Uploads): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const name of await readdir(folder)) {
    if (!partialName.test(name)) continue;
    const path = join(folder, name);
    const modifiedMs = (await lstat(path).catch(() => undefined))?.mtimeMs ?? Infinity;
    // Another agent may be writing beside us.
    if (Date.now() - modifiedMs > abandonedMs) await unlink(path).catch(() => {});
  }
}

/** Why a name cannot be written: as for one that is read, or it is taken, or the folder or its disk is full. */
export type UploadRefusal = Refusal | "exists" | "full";

/**
 * What uploads leave free on a disk, for the host's own needs: 5 %, which ext4 keeps for root, and of a large disk a
 * gigabyte.
 */
const reservedShare = 0.05;
const reservedBytesLimit = 2 ** 30;
/** How often the disk is asked again while a file grows. */
const spaceCheckBytes = 16 << 20;

/** asm-generic/fcntl.h; names a folder without opening it. */
const O_PATH = 0o10000000;
const { O_DIRECTORY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
const exclusively = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;

/** File systems without hard links say it in one of these ways. */
const cannotLink = ["EPERM", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EMLINK"];

/**
 * A new file that a board sends. It is written beside its place under a hidden name and appears under its own when it
 * is complete; what exists is never touched. Its folder is pinned: exchanging it for a link leads nowhere.
 */
export class Upload {
  readonly #folder: FileHandle;
  readonly #file: FileHandle;
  readonly #partial: string;
  readonly #target: string;
  #uncheckedBytes = 0;

  private constructor(folder: FileHandle, file: FileHandle, partial: string, target: string) {
    this.#folder = folder;
    this.#file = file;
    this.#partial = partial;
    this.#target = target;
  }

  /**
   * Names lead into the folder and into folders that are there already; they are confined as names that are read are.
   * @param announcedBytes the file's size, where the board has told it
   * @throws system errors that say nothing about the name: EMFILE, ENOSPC, EROFS.
   */
  static async begin(
    { folder: root, maxFiles = 10_000 }: Uploads,
    name: string,
    announcedBytes = 0,
  ): Promise<Upload | { refused: UploadRefusal }> {
    const segments = name.split("/").filter((segment) => segment !== "" && segment !== ".");
    const own = segments.pop();
    if (own === undefined || /\/\.?$/.test(name)) return { refused: "folder" };
    if (own === ".." || segments.includes("..")) return { refused: "outside" };
    if (name.includes("\0")) return { refused: "missing" };
    let folder: FileHandle | undefined;
    try {
      const realRoot = await realpath(root);
      folder = await open(join(realRoot, ...segments), O_PATH | O_DIRECTORY);
      const pinned = `/proc/self/fd/${folder.fd}`;
      if (!isBelow(realRoot, await readlink(pinned))) {
        await folder.close();
        return { refused: "outside" };
      }
      const target = join(pinned, own);
      if (await exists(target)) {
        await folder.close();
        return { refused: "exists" };
      }
      if ((await readdir(pinned)).length >= maxFiles || !(await hasRoom(pinned, announcedBytes))) {
        await folder.close();
        return { refused: "full" };
      }
      const partial = join(pinned, `.upload-${randomBytes(8).toString("hex")}.part`);
      return new Upload(folder, await open(partial, exclusively, 0o644), partial, target);
    } catch (error) {
      await folder?.close();
      const refused = refusalOf(error);
      if (refused === undefined) throw error;
      return { refused };
    }
  }

  /** Appends all of it. @throws what {@link isDiskFull} knows, before the host has no room itself. */
  async write(bytes: Uint8Array): Promise<void> {
    this.#uncheckedBytes += bytes.length;
    if (this.#uncheckedBytes >= spaceCheckBytes) {
      this.#uncheckedBytes = 0;
      if (!(await hasRoom(`/proc/self/fd/${this.#folder.fd}`, 0))) {
        throw new AgentError("E_LIMIT", "the disk is as full as uploads may make it");
      }
    }
    await this.#file.appendFile(bytes);
  }

  /** Puts the complete file into its place. @returns false if the name was taken meanwhile; then it is gone. */
  async commit(): Promise<boolean> {
    try {
      await this.#place();
      return true;
    } catch (error) {
      if (isSystemError(error) && error.code === "EEXIST") return false;
      throw error;
    } finally {
      await this.discard();
    }
  }

  async #place(): Promise<void> {
    try {
      await link(this.#partial, this.#target);
    } catch (error) {
      if (!isSystemError(error) || !cannotLink.includes(error.code)) throw error;
      // The empty file makes the name ours before it is replaced.
      await (await open(this.#target, exclusively, 0o644)).close();
      await rename(this.#partial, this.#target);
    }
  }

  /** Takes away what is not in its place. */
  async discard(): Promise<void> {
    // After a rename it is gone already.
    await unlink(this.#partial).catch(() => {});
    await this.#file.close();
    await this.#folder.close();
  }
}

/** Whether writing failed because there is no room. */
export function isDiskFull(error: unknown): boolean {
  if (error instanceof AgentError) return error.code === "E_LIMIT";
  return isSystemError(error) && ["ENOSPC", "EDQUOT", "EFBIG"].includes(error.code);
}

async function hasRoom(folder: string, bytes: number): Promise<boolean> {
  const { bavail, blocks, bsize } = await statfs(folder);
  return bavail * bsize - Math.min(blocks * bsize * reservedShare, reservedBytesLimit) >= bytes;
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (isSystemError(error) && error.code === "ENOENT") return false;
    throw error;
  }
}
