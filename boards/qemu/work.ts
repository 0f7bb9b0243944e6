import { randomUUID } from "node:crypto";
import { rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { partitions, type Partition } from "./config.ts";
import { makeOwnedFolder, type OwnedFolder } from "./owned-folder.ts";

/** A file that the machine starts from. */
export interface PartitionFile {
  readonly path: string;
  /** The operator's, not one that a client has flashed. */
  readonly own: boolean;
}

interface Staged {
  /** Nothing is there yet. */
  readonly path: string;
  commit(): Promise<void>;
  /** Removes it, unless it is in place. */
  drop(): Promise<void>;
}

/** @param name as clients give it; null means the root image. @throws AgentError E_INVALID */
export function partitionOf(name: string | null | undefined): Partition {
  const found = partitions.find((known) => known === (name ?? "root"));
  if (found === undefined) throw new AgentError("E_INVALID", `invalid partition name: ${name}`);
  return found;
}

/** What a machine keeps on the disk of its host during one lease: flashed images, sockets. Made when it is first needed. */
export class WorkFolder {
  readonly #base: string;
  readonly #defaults: Readonly<Partial<Record<Partition, string>>>;
  #made: Promise<OwnedFolder> | undefined;

  constructor(base: string | null, defaults: Readonly<Partial<Record<Partition, string>>>) {
    this.#base = base ?? tmpdir();
    this.#defaults = defaults;
  }

  async path(): Promise<string> {
    this.#made ??= makeOwnedFolder(this.#base);
    const made = this.#made;
    try {
      return (await made).path;
    } catch (error) {
      if (this.#made === made) this.#made = undefined;
      throw error;
    }
  }

  /** What was flashed, or else is configured. @throws the system's error if what is configured is missing */
  async find(partition: Partition): Promise<PartitionFile | undefined> {
    const flashed = join(await this.path(), partition);
    if (await exists(flashed)) return { path: flashed, own: false };
    const configured = this.#defaults[partition];
    if (configured === undefined) return undefined;
    const path = resolve(configured);
    await stat(path);
    return { path, own: true };
  }

  /**
   * A place for an image that is being written. Half of one is never in place, and a machine that runs keeps what it
   * was started with.
   */
  async stage(partition: Partition): Promise<Staged> {
    const folder = await this.path();
    const path = join(folder, `${partition}.${randomUUID()}.new`);
    return { path, commit: () => rename(path, join(folder, partition)), drop: () => rm(path, { force: true }) };
  }

  /** The next lease gets another one. */
  async remove(): Promise<void> {
    const made = this.#made;
    this.#made = undefined;
    await (await made?.catch(() => undefined))?.remove();
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isSystemError(error) && error.code === "ENOENT") return false;
    throw error;
  }
}
