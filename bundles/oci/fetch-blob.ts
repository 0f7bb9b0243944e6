import { createHash, type Hash } from "node:crypto";
import { open, rm, type FileHandle } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { algorithmOf, verifying, type Expected } from "./digest.ts";
import { withRetries } from "./retry.ts";
import type { TransferOptions } from "./sink.ts";
import type { Source } from "./source.ts";

/** An attempt that brought less than this was none: a peer that gives single bytes is not asked for ever. */
const leastProgressBytes = 16 * 1024;
const readBytes = 1024 * 1024;

/**
 * Writes a blob to a file, every byte checked, and waits until the disk has it. A file that is there is taken for the
 * first part of the blob, and so is what a broken connection has brought; both are read again.
 * @throws AgentError E_DIGEST, and the file is gone; E_CONNECTION or E_TIMEOUT, and the file has what came; system errors
 */
export async function fetchBlob(
  source: Pick<Source, "blob">,
  expected: Expected,
  path: string,
  { name, signal, onProgress }: TransferOptions,
): Promise<void> {
  /** What the last attempt found, and what it has added. */
  let foundBytes = 0;
  let addedBytes = 0;
  /** Why the disk did not take it; the pipeline only says that it was aborted. */
  let diskError: unknown;

  const attempt = async () => {
    signal.throwIfAborted();
    const file = await open(path, "a+", 0o644);
    try {
      const part = await hashPart(file, expected, signal);
      [foundBytes, addedBytes] = [part.bytes, 0];
      onProgress?.(foundBytes);
      const isComplete = foundBytes > 0 && foundBytes === expected.size;
      const content = isComplete ? [] : await source.blob(expected, { signal, from: foundBytes });
      const append = async (chunks: AsyncIterable<Buffer>) => {
        for await (const chunk of chunks) {
          await file.appendFile(chunk).catch((error: unknown) => {
            diskError = error;
            throw error;
          });
          addedBytes += chunk.length;
          onProgress?.(foundBytes + addedBytes);
        }
      };
      await pipeline(content, verifying(expected, name, part), append, { signal });
      await file.sync();
    } catch (error) {
      if (isWrong(error)) await rm(path, { force: true });
      throw diskError ?? error;
    } finally {
      await file.close();
    }
  };
  const attemptTwiceIfWrong = async () => {
    try {
      await attempt();
    } catch (error) {
      // What is wrong may be the part that was there: all of it once more.
      if (!isWrong(error) || foundBytes === 0) throw error;
      await attempt();
    }
  };
  await withRetries(attemptTwiceIfWrong, { signal, hasProgressed: () => addedBytes >= leastProgressBytes });
}

const isWrong = (error: unknown) => error instanceof AgentError && error.code === "E_DIGEST";

/** Hashes what is there of a blob. More than all of it is as good as nothing. */
async function hashPart(
  file: FileHandle,
  { digest, size }: Expected,
  signal: AbortSignal,
): Promise<{ bytes: number; hash: Hash }> {
  const hash = createHash(algorithmOf(digest));
  if ((await file.stat()).size > size) await file.truncate(0);
  let bytes = 0;
  for await (const chunk of file.createReadStream({ start: 0, highWaterMark: readBytes, autoClose: false })) {
    signal.throwIfAborted();
    hash.update(chunk as Buffer);
    bytes += (chunk as Buffer).length;
  }
  return { bytes, hash };
}
