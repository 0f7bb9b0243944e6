import { randomBytes } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { syncDirectory } from "../../agent/stream/durable.ts";
import { verifying, type Digest } from "./digest.ts";
import { indexWith, layoutMark, layoutMarkFile, type LayoutEntry } from "./layout-index.ts";
import { withRetries } from "./retry.ts";
import type { Sink } from "./sink.ts";
import { tarBlockBytes, writeTarHeader } from "./tar-header.ts";

/**
 * Writes a tar archive of an OCI image layout, as `skopeo` and `podman` read it. The same images make the
 * same archive. It gets its name when the disk has all of it; one of that name that is there stays whole until then.
 */
export async function openArchiveSink(path: string): Promise<Sink> {
  const incoming = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const file = await open(incoming, "wx", 0o644);
  const held = new Set<Digest>();
  const entries: LayoutEntry[] = [];
  let end = 0;
  /** An archive is written one file after the other. */
  let turn: Promise<unknown> = Promise.resolve();

  const inTurn = async (write: () => Promise<void>): Promise<void> => {
    const mine = turn.then(write);
    turn = mine.catch(() => {});
    await mine;
  };
  const add = async (name: string, size: number, write: (start: number) => Promise<void>) => {
    const start = end + tarBlockBytes;
    await file.write(writeTarHeader(name, size), 0, tarBlockBytes, end);
    await write(start);
    const padding = Buffer.alloc((tarBlockBytes - (size % tarBlockBytes)) % tarBlockBytes);
    await file.write(padding, 0, padding.length, start + size);
    // Only now: what failed before is written over.
    end = start + size + padding.length;
  };
  const addBytes = async (name: string, bytes: Uint8Array) =>
    await add(name, bytes.length, async (start) => void (await file.write(bytes, 0, bytes.length, start)));
  const blobName = (digest: Digest) => `blobs/${digest.replace(":", "/")}`;

  try {
    await addBytes(layoutMarkFile, Buffer.from(layoutMark));
  } catch (error) {
    await file.close();
    await rm(incoming, { force: true });
    throw error;
  }
  return {
    hasBlob: ({ digest }) => Promise.resolve(held.has(digest)),
    putBlob: async (expected, from, { name, signal, onProgress }) => {
      await inTurn(async () => {
        await add(blobName(expected.digest), expected.size, async (start) => {
          await withRetries(
            async () => {
              let bytes = 0;
              const content = await from.blob(expected, { signal });
              const write = async (chunks: AsyncIterable<Buffer>) => {
                for await (const chunk of chunks) {
                  await file.write(chunk, 0, chunk.length, start + bytes);
                  onProgress?.((bytes += chunk.length));
                }
              };
              await pipeline(content, verifying(expected, name), write, { signal });
            },
            { signal },
          );
        });
        held.add(expected.digest);
      });
    },
    putManifest: async (raw, digest, { named }) => {
      await inTurn(async () => {
        if (!held.has(digest)) await addBytes(blobName(digest), raw.bytes);
        held.add(digest);
        if (named !== undefined) entries.push({ raw, digest, named });
      });
    },
    finish: async () => {
      await inTurn(async () => {
        await addBytes("index.json", Buffer.from(indexWith(undefined, entries, path)));
        // The two empty blocks at the end, and nothing of what failed behind them.
        await file.truncate(end);
        await file.truncate(end + 2 * tarBlockBytes);
        await file.sync();
        await rename(incoming, path);
        await syncDirectory(dirname(path));
      });
    },
    close: async () => {
      await turn;
      await file.close();
      await rm(incoming, { force: true });
    },
  };
}
