import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { makeDirectoryDurably, syncDirectory, writeDurably } from "../../agent/stream/durable.ts";
import { loadTryLock } from "../../agent/sys/flock.ts";
import { checkFile } from "../files.ts";
import { fetchBlob } from "./fetch-blob.ts";
import { indexWith, layoutMark, layoutMarkFile, type LayoutEntry } from "./layout-index.ts";
import type { Digest } from "./digest.ts";
import type { LayoutReference } from "./reference.ts";
import type { Sink } from "./sink.ts";

/** Blobs on their way into a layout. */
const incomingDirectory = ".incoming";

/**
 * Writes an OCI image layout, into a new directory or beside the images of one. A blob gets its name when the disk has all
 * of it, and `index.json` names an image when all of the image is there: whatever is cut, the layout is whole.
 * @throws AgentError E_INVALID if the directory holds something else, E_IO if somebody else writes to it
 */
export async function openLayoutSink({ directory }: LayoutReference): Promise<Sink> {
  const pathOf = (digest: Digest) => join(directory, "blobs", ...digest.split(":"));
  const entries: LayoutEntry[] = [];
  await prepare(directory);
  const unlock = await lock(directory);
  try {
    // What an earlier writer left that was killed. The first parts of its blobs are not worth the trust.
    await rm(join(directory, incomingDirectory), { recursive: true, force: true });
    await mkdir(join(directory, incomingDirectory));
    await makeDirectoryDurably(join(directory, "blobs", "sha256"));
  } catch (error) {
    await unlock();
    throw error;
  }

  const publish = async (digest: Digest, write: (path: string) => Promise<void>) => {
    const path = pathOf(digest);
    const incoming = join(directory, incomingDirectory, digest.replace(":", "-"));
    await makeDirectoryDurably(dirname(path));
    await write(incoming);
    await rename(incoming, path);
    await syncDirectory(dirname(path));
  };

  return {
    hasBlob: async (expected) => {
      try {
        await checkFile(pathOf(expected.digest), expected);
        return true;
      } catch (error) {
        // What is damaged is written anew.
        if (error instanceof AgentError || (isSystemError(error) && error.code === "ENOENT")) return false;
        throw error;
      }
    },
    putBlob: async (expected, from, transfer) => {
      await publish(expected.digest, (path) => fetchBlob(from, expected, path, transfer));
    },
    putManifest: async (raw, digest, { named }) => {
      await publish(digest, (path) => writeDurably(path, Buffer.from(raw.bytes).toString("utf8")));
      if (named !== undefined) entries.push({ raw, digest, named });
    },
    finish: async () => {
      const path = join(directory, "index.json");
      const before = (await exists(path)) ? await readFile(path, "utf8") : undefined;
      await writeDurably(path, indexWith(before, entries, path));
    },
    close: async () => {
      await rm(join(directory, incomingDirectory), { recursive: true, force: true });
      await unlock();
    },
  };
}

/**
 * Keeps other writers away, where the file system and this host's Node can: each would write the index without what the
 * other has added.
 * @throws AgentError E_IO if there is one
 */
async function lock(directory: string): Promise<() => Promise<void>> {
  const tryLock = await loadTryLock().catch(() => undefined);
  if (tryLock === undefined) return () => Promise.resolve();
  const file = await open(join(directory, layoutMarkFile), "r");
  try {
    if (tryLock(file.fd, "exclusive")) return () => file.close();
    throw new AgentError("E_IO", `somebody else is writing to ${directory}`);
  } catch (error) {
    await file.close();
    if (error instanceof AgentError) throw error;
    // A file system without locks.
    return () => Promise.resolve();
  }
}

async function prepare(directory: string): Promise<void> {
  await makeDirectoryDurably(directory);
  const mark = join(directory, layoutMarkFile);
  if (await exists(mark)) return;
  const names = (await readdir(directory)).filter((name) => name !== incomingDirectory && name !== "lost+found");
  if (names.length > 0) {
    throw new AgentError("E_INVALID", `${directory} is neither empty nor an OCI image layout`, {
      hint: "name a new directory",
    });
  }
  await writeDurably(mark, layoutMark);
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return false;
      throw error;
    },
  );
}
