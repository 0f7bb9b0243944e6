import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, lstat, mkdir, open, readdir, rename, rmdir, unlink, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { fileChunks, writeFully } from "../../../agent/stream/files.ts";
import type { Metadata } from "../interface.ts";
import { ConfinedDirectory, createExclusively } from "./confined.ts";
import { parentOf, parsePath, type StorePath } from "./path.ts";
import {
  capabilityOf,
  isADirectory,
  isNotFound,
  notADirectory,
  notFound,
  plainMetadata,
  type Reader,
  type Store,
  type Writer,
} from "./store.ts";

export interface FsStoreOptions {
  root: string;
  /**
   * Where files grow until they are closed and renamed to their place; on the file system of `root`.
   * Without it a file is created or truncated when it is opened, and grows where it is: clients look at
   * it, and servers beside us hand it out, before it is closed.
   */
  atomicWriteDirectory?: string | undefined;
  /** Told of each directory that did not exist before. */
  onDirectoryMade?: ((path: StorePath) => void) | undefined;
}

const capability = capabilityOf({
  stat: true,
  read: true,
  write: true,
  write_can_multi: true,
  write_can_empty: true,
  write_can_append: true,
  create_dir: true,
  delete: true,
  copy: true,
  rename: true,
  list: true,
  shared: true,
  blocking: true,
});

/** Files below a directory of the exporter host. */
export async function openFsStore(options: FsStoreOptions): Promise<Store> {
  const root = await ConfinedDirectory.open(options.root);
  if (options.atomicWriteDirectory !== undefined) await mkdir(options.atomicWriteDirectory, { recursive: true });
  return new FsStore(root, options);
}

class FsStore implements Store {
  readonly capability = capability;
  readonly #root: ConfinedDirectory;
  readonly #options: FsStoreOptions;

  constructor(root: ConfinedDirectory, options: FsStoreOptions) {
    this.#root = root;
    this.#options = options;
  }

  stat(path: StorePath): Promise<Metadata> {
    return this.#root.with(path.segments, async ({ handle }) => {
      const stat = await handle.stat();
      if (stat.isDirectory()) return plainMetadata("directory", 0);
      if (path.isDirectory) throw notFound(path);
      const metadata = plainMetadata("file", stat.size);
      return stat.isFile() ? metadata : { ...metadata, mode: { entry_is_file: false, entry_is_dir: false } };
    });
  }

  openReader(path: StorePath): Promise<Reader> {
    if (path.isDirectory) throw isADirectory(path);
    return this.#root.with(path.segments, async (pinned) => {
      const file = await pinned.openFile(constants.O_RDONLY);
      const { size } = await file.stat();
      return {
        sizeBytes: size,
        chunks: (start) => fileChunks(file, start, size),
        close: () => file.close(),
      };
    });
  }

  async openWriter(path: StorePath): Promise<Writer> {
    if (path.isDirectory) throw isADirectory(path);
    await this.#makeParents(path);
    const growing = this.#options.atomicWriteDirectory;
    if (growing === undefined) return inPlaceWriter(await this.#openTruncated(path));
    await this.#refuseDirectory(path);
    const temporary = join(growing, `.jmp-agent-${randomUUID()}`);
    const file = await open(temporary, createExclusively, 0o666);
    return renamingWriter(file, temporary, () =>
      this.#root.withEntry(path.segments, (target) => rename(temporary, target)),
    );
  }

  async #openTruncated(path: StorePath): Promise<FileHandle> {
    try {
      return await this.#root.withEntry(path.segments, (entry) => open(entry, createExclusively, 0o666));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    return this.#root.with(path.segments, (pinned) => pinned.openFile(constants.O_WRONLY | constants.O_TRUNC));
  }

  async copy(source: StorePath, target: StorePath): Promise<void> {
    await this.#root.with(source.segments, async (pinned) => {
      // Opened only to see that it is a regular file.
      await (await pinned.openFile(constants.O_RDONLY)).close();
      await this.#makeParents(target);
      await this.#root.withEntry(target.segments, async (entry) => {
        // Copied beside the target, which therefore has its old or its new content and nothing between.
        const temporary = join(entry, "..", `.jmp-agent-${randomUUID()}`);
        try {
          await copyFile(pinned.path, temporary, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
          await rename(temporary, entry);
        } catch (error) {
          await unlink(temporary).catch(() => {});
          throw error;
        }
      });
    });
  }

  async rename(source: StorePath, target: StorePath): Promise<void> {
    await this.#root.withEntry(source.segments, async (from) => {
      await lstat(from);
      await this.#makeParents(target);
      await this.#root.withEntry(target.segments, (to) => rename(from, to));
    });
  }

  async delete(path: StorePath): Promise<void> {
    try {
      await this.#root.withEntry(path.segments, async (entry) => {
        if ((await lstat(entry)).isDirectory()) await rmdir(entry);
        else if (path.isDirectory) throw notADirectory(path, "is not a directory");
        else await unlink(entry);
      });
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  async removeAll(path: StorePath): Promise<void> {
    try {
      const isDirectory =
        path.segments.length === 0 ||
        (await this.#root.withEntry(path.segments, async (entry) => (await lstat(entry)).isDirectory()));
      if (isDirectory) {
        const below = await this.#root.with(path.segments, (pinned) => readdir(pinned.path));
        for (const name of below) await this.removeAll(childOf(path, name));
      }
      if (path.segments.length > 0) await this.delete({ ...path, isDirectory });
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  async createDirectory(path: StorePath): Promise<void> {
    await this.#root.makeDirectory(path.segments, (made) => {
      this.#options.onDirectoryMade?.(parsePath(`${made.join("/")}/`));
    });
  }

  async *list(path: StorePath, recursive: boolean): AsyncGenerator<string, void, undefined> {
    const directory = path.isDirectory ? path : parentOf(path);
    if (path.isDirectory) {
      const isThere = await this.stat(path).catch((error: unknown) => {
        if (!isNotFound(error)) throw error;
        return undefined;
      });
      if (isThere === undefined) return;
      yield path.text;
    }
    const prefix = path.isDirectory ? "" : (path.segments.at(-1) ?? "");
    yield* this.#below(directory, prefix, recursive);
  }

  async *#below(directory: StorePath, prefix: string, recursive: boolean): AsyncGenerator<string, void, undefined> {
    let entries;
    try {
      entries = await this.#root.with(directory.segments, (pinned) => readdir(pinned.path, { withFileTypes: true }));
    } catch (error) {
      if (isNotFound(error)) return;
      throw error;
    }
    for (const entry of entries) {
      if (!entry.name.startsWith(prefix)) continue;
      // A symlink is listed as a file and not followed, so a scan ends.
      const child = childOf(directory, entry.name, entry.isDirectory());
      yield child.text;
      if (recursive && child.isDirectory) yield* this.#below(child, "", true);
    }
  }

  #makeParents(path: StorePath): Promise<void> {
    return this.createDirectory(parentOf(path));
  }

  async #refuseDirectory(path: StorePath): Promise<void> {
    const found = await this.stat(path).catch((error: unknown) => {
      if (!isNotFound(error)) throw error;
      return undefined;
    });
    if (found?.mode.entry_is_dir) throw isADirectory(path);
  }
}

/** A name as the disk has it, which `parsePath` would trim. */
function childOf(directory: StorePath, name: string, isDirectory = false): StorePath {
  const segments = [...directory.segments, name];
  return { text: segments.join("/") + (isDirectory ? "/" : ""), segments, isDirectory };
}

function inPlaceWriter(file: FileHandle): Writer {
  let position = 0;
  return {
    async write(batch) {
      position = await writeFully(file, batch, position);
    },
    close: () => file.close(),
    abort: () => file.close(),
  };
}

function renamingWriter(file: FileHandle, temporary: string, putInPlace: () => Promise<void>): Writer {
  const grow = inPlaceWriter(file);
  return {
    write: (batch, signal) => grow.write(batch, signal),
    async close() {
      try {
        await file.sync();
        await file.close();
        await putInPlace();
      } catch (error) {
        await this.abort();
        throw error;
      }
    },
    async abort() {
      await file.close();
      await unlink(temporary).catch(() => {});
    },
  };
}
