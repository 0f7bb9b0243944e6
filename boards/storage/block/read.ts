import { createHash } from "node:crypto";
import type { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { openDisk, type DiskOptions, type OpenDisk, type Target } from "./disk.ts";
import { asAndroidSparse } from "../image/sparse-writer.ts";
import { formatBytes } from "./facts.ts";
import { ProgressMeter } from "./progress.ts";
import type { TransferContext } from "./write.ts";

export interface ReadOptions extends DiskOptions {
  /** Only so many bytes from the beginning; otherwise the whole disk. */
  readonly limitBytes?: number | undefined;
  /** How it is sent; `raw` if it is missing. */
  readonly format?: "raw" | "android-sparse" | undefined;
}

export interface ReadReport {
  /** For people. */
  readonly device: string;
  readonly bytes: number;
  /** Of what is on the disk, in hex. */
  readonly sha256: string;
}

const chunkBytes = 1024 * 1024;
const logEveryBytes = 50 * 1024 * 1024;

/**
 * Sends a whole disk, reading the next piece while one is sent, and ends the sink. Each byte comes from the medium, not from the page cache. What
 * is all zeros is sent like everything else, or as a fill of an Android sparse image: nobody knows whether it was ever written.
 * @throws as writeImage
 */
export async function readImage(
  target: Target,
  sink: Writable,
  options: ReadOptions,
  context: TransferContext,
): Promise<ReadReport> {
  const { signal, log } = context;
  const disk = await openDisk(target, "read", options, context);
  try {
    log.info(`storage device ${disk.name} is ready`);
    if (!disk.isDirect) await disk.calls.forget(disk.file.fd);
    const hash = createHash("sha256");
    const totalBytes = Math.min(options.limitBytes ?? Infinity, disk.sizeBytes ?? disk.fileBytes);
    const meter = new ProgressMeter(context.onProgress, undefined);
    let bytes = 0;
    let toLog = 0;
    const counted = async function* (pieces: AsyncIterable<Buffer>) {
      for await (const piece of pieces) {
        hash.update(piece);
        yield piece;
        bytes += piece.length;
        meter.tell("read", bytes, totalBytes);
        if (bytes > toLog) {
          log.info(`read ${Math.round(bytes / (1024 * 1024))} MB from storage device ${disk.name}`);
          toLog += logEveryBytes;
        }
      }
    };
    const asWanted = (pieces: AsyncIterable<Buffer>) =>
      options.format === "android-sparse" ? asAndroidSparse(counted(pieces), totalBytes) : counted(pieces);
    await pipeline(chunks(disk, totalBytes), asWanted, sink, { signal });
    log.info(`read ${formatBytes(bytes)} from storage device ${disk.name}`);
    return { device: disk.name, bytes, sha256: hash.digest("hex") };
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    await disk.close();
  }
}

async function* chunks(disk: OpenDisk, totalBytes: number): AsyncGenerator<Buffer, void, undefined> {
  const read = (position: number): Promise<Buffer> => {
    // Streams keep what they are given for a while, so each piece has memory of its own.
    const bytes = Math.min(chunkBytes, totalBytes - position);
    const buffer = disk.calls.alignedBuffer(Math.ceil(bytes / disk.blockBytes) * disk.blockBytes);
    const result = disk.readAt(buffer, position).then((count) => buffer.subarray(0, Math.min(bytes, count)));
    // Awaited one round later.
    result.catch(() => {});
    return result;
  };
  if (totalBytes === 0) return;
  let next = read(0);
  try {
    for (let position = 0; position < totalBytes; position += chunkBytes) {
      const chunk = await next;
      if (position + chunkBytes < totalBytes) next = read(position + chunkBytes);
      if (chunk.length === 0) return;
      yield chunk;
    }
  } finally {
    await next.catch(() => {});
  }
}
