import { createHash } from "node:crypto";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../../agent/driver/errors.ts";
import type { Logger } from "../../../agent/driver/log.ts";
import type { ByteRange, FlashTarget } from "../../../agent/driver/receipt.ts";
import type { ContentEncoding } from "../../../agent/driver/resource.ts";
import type { Bmap } from "../image/bmap.ts";
import { openDisk, type DiskOptions, type OpenDisk, type Target } from "./disk.ts";
import { formatBytes } from "./facts.ts";
import { refused } from "./protection.ts";
import type { WrittenBlocks } from "./remembered.ts";
import { compareWithMedium, rangeBytes, type Written } from "./verify.ts";

export interface WriteOptions extends DiskOptions {
  /** Reads everything back from the medium and compares. */
  readonly verify: boolean;
  /** After the last byte was acknowledged: cards go on moving data for a while. */
  readonly leewayMs: number;
  readonly fsyncTimeoutMs: number;
  /**
   * `auto`: compressed data and Android sparse images are known by their first bytes and decoded; `raw`: byte for byte. `auto` if it is missing.
   */
  readonly format?: "auto" | "raw" | undefined;
  /** Only what it maps is written, and compared with its checksums on the way. */
  readonly bmap?: Bmap | undefined;
  /** What is known to be on the medium is read and compared, and written only where it differs. */
  readonly remembered?: WrittenBlocks | undefined;
}

export interface Progress {
  readonly phase: "write" | "sync" | "verify" | "leeway";
  /** Of this phase: acknowledged by the device, or read back and found right. */
  readonly bytes: number;
  /** Undefined while the image's size is not known. */
  readonly totalBytes: number | undefined;
}

export interface TransferContext {
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

export interface WriteReport {
  /** For people. */
  readonly device: string;
  /** What the medium says of itself, where it can be asked. */
  readonly medium: string | undefined;
  /** Of the device; undefined for a file. */
  readonly deviceBytes: number | undefined;
  readonly target: FlashTarget;
  /** As the image came. */
  readonly encoding: ContentEncoding | null;
  readonly imageFormat: "raw" | "android-sparse";
  /** The stream as it came, to its end; the digest is in hex. */
  readonly given: { readonly bytes: number; readonly sha256: string };
  /** Of the image, decoded, holes included. */
  readonly bytes: number;
  /** What of it belongs on the disk: all but its holes. */
  readonly mappedBytes: number;
  /** Of the mapped bytes one after the other, in hex: that of the image itself if it has no holes. */
  readonly mappedSha256: string;
  /** Together the mapped bytes: written, and found on the medium as they should be. In ascending order. */
  readonly written: readonly ByteRange[];
  readonly unchanged: readonly ByteRange[];
  readonly verified: boolean;
  /** Past the page cache. */
  readonly direct: boolean;
  /** Reads and writes that succeeded only when they were repeated. */
  readonly retries: number;
  readonly seconds: { readonly wait: number; readonly write: number; readonly sync: number; readonly verify: number };
}

/** Of one write; erase blocks of cards are not larger as a rule. */
const chunkBytes = 4 * rangeBytes;
/** Through the page cache, so many bytes are let run up before they are put on the device. */
const syncEveryBytes = 32 * 1024 * 1024;
const logEveryBytes = 50 * 1024 * 1024;
const syncAgainAfterMs = 1_000;

/**
 * Writes an image to a whole disk, receiving the next piece while one is written; two pieces of 4 MiB are in memory. When it has returned,
 * the bytes are on the medium, and are read back from there unless that is switched off. When it has thrown, nothing is under way any more.
 * @throws AgentError E_TARGET (refused), E_TIMEOUT (no medium, no end of fsync), E_DEVICE_OFFLINE (medium lost), E_IO, E_DIGEST (the medium holds
 *   other bytes); what the source fails with; the reason of the signal
 */
export async function writeImage(
  source: Readable,
  place: Target,
  options: WriteOptions,
  context: TransferContext,
): Promise<WriteReport> {
  const { log, signal } = context;
  const clock = stopwatch();
  // It may fail while a medium is waited for; the pipeline then finds it so.
  source.on("error", () => {});
  const disk = await openDisk(place, "write", options, context).catch((error: unknown) => {
    source.destroy();
    throw error;
  });
  try {
    const wait = clock();
    const medium = await describeMedium(place, context);
    log.info(`storage device ${disk.name} is ready${medium === undefined ? "" : `: ${medium}`}`);
    const written = await copyIn(source, disk, options, context);
    const write = clock();
    log.info(`fsyncing storage device ${disk.name}, please wait`);
    context.onProgress?.({ phase: "sync", bytes: 0, totalBytes: written.bytes });
    const { failures } = await syncUntil(disk, options, context);
    const sync = clock();
    // The kernel reports a lost page once; a later success says nothing about it.
    const mustLook = failures > 0 && !options.verify;
    if (mustLook) log.warn(`fsync of ${disk.name} failed at first: what was written is read back`);
    const verified = options.verify || mustLook;
    if (verified) await compareWithMedium(disk, written, context);
    const verify = clock();
    const { bytes, sha256 } = written;
    const target: FlashTarget = { path: disk.name, bytes: disk.sizeBytes, model: disk.facts?.model };
    log.info(
      `written ${formatBytes(bytes)} to storage device ${disk.name}${verified ? ", read back and compared" : ""}`,
    );
    if (options.leewayMs > 0) {
      context.onProgress?.({ phase: "leeway", bytes, totalBytes: bytes });
      await sleep(options.leewayMs, undefined, { signal });
    }
    return {
      device: disk.name,
      medium,
      deviceBytes: disk.sizeBytes,
      target,
      encoding: null,
      imageFormat: "raw",
      given: { bytes, sha256 },
      bytes,
      mappedBytes: bytes,
      mappedSha256: sha256,
      written: bytes === 0 ? [] : [{ start: 0, end: bytes }],
      unchanged: [],
      verified,
      direct: disk.isDirect,
      retries: disk.retries,
      seconds: { wait, write, sync, verify },
    };
  } catch (error) {
    // Timers and streams make an error of their own of it.
    signal.throwIfAborted();
    throw error;
  } finally {
    await disk.close();
  }
}

async function describeMedium(target: Target, { signal, log }: TransferContext): Promise<string | undefined> {
  try {
    return await target.describeMedium?.({ signal });
  } catch (error) {
    signal.throwIfAborted();
    log.debug(`the medium does not say what it is: ${toAgentError(error).message}`);
    return undefined;
  }
}

async function copyIn(
  source: Readable,
  disk: OpenDisk,
  options: WriteOptions,
  context: TransferContext,
): Promise<Written> {
  const { signal, log } = context;
  const hash = createHash("sha256");
  const checksums: number[] = [];
  let [filling, spare] = [disk.calls.alignedBuffer(chunkBytes), disk.calls.alignedBuffer(chunkBytes)];
  let filled = 0;
  let position = 0;
  let unsynced = 0;
  let toLog = 0;
  let inFlight: Promise<void> = Promise.resolve();

  const put = async (chunk: Buffer, at: number): Promise<void> => {
    await disk.writeAt(chunk, at);
    unsynced += chunk.length;
    if (!disk.isDirect && unsynced >= syncEveryBytes) {
      // Otherwise progress is that of memory, and the rest waits in one long fsync.
      await syncUntil(disk, options, context);
      await disk.calls.forget(disk.file.fd);
      unsynced = 0;
    }
    const bytes = at + chunk.length;
    context.onProgress?.({ phase: "write", bytes, totalBytes: options.imageBytes });
    if (bytes > toLog) {
      log.info(`written ${Math.round(bytes / (1024 * 1024))} MB to storage device ${disk.name}`);
      toLog += logEveryBytes;
    }
  };
  const flush = async (): Promise<void> => {
    if (disk.sizeBytes !== undefined && position + filled > disk.sizeBytes) {
      throw refused(disk.name, undefined, `the image is larger than its ${disk.sizeBytes} bytes`, "written to its end");
    }
    const image = filling.subarray(0, filled);
    for (let start = 0; start < filled; start += rangeBytes) {
      checksums.push(crc32(image.subarray(start, start + rangeBytes)));
    }
    await inFlight;
    const chunk = filled % disk.blockBytes === 0 ? image : await padded(disk, filling, filled, position);
    inFlight = put(chunk, position);
    // Whoever comes next awaits it; until then a failure must not count as unhandled.
    inFlight.catch(() => {});
    position += filled;
    filled = 0;
    [filling, spare] = [spare, filling];
  };

  try {
    await pipeline(
      source,
      async (pieces: AsyncIterable<Buffer>) => {
        for await (const piece of pieces) {
          hash.update(piece);
          for (let taken = 0; taken < piece.length;) {
            const count = piece.copy(filling, filled, taken);
            taken += count;
            filled += count;
            if (filled === filling.length) await flush();
          }
        }
        if (filled > 0) await flush();
        await inFlight;
      },
      { signal },
    );
  } finally {
    await inFlight.catch(() => {});
  }
  await cutToLength(disk, position);
  return { bytes: position, sha256: hash.digest("hex"), checksums };
}

/** The last piece up to the end of its block, with what the medium holds after the image. */
async function padded(disk: OpenDisk, buffer: Buffer, bytes: number, position: number): Promise<Buffer> {
  const within = bytes % disk.blockBytes;
  const start = bytes - within;
  const block = disk.calls.alignedBuffer(disk.blockBytes);
  const held = await disk.readAt(block, position + start);
  block.fill(0, held);
  block.copy(buffer, bytes, within);
  return buffer.subarray(0, start + disk.blockBytes);
}

/** A file that the last whole block has made longer than the image and what was there before. */
async function cutToLength(disk: OpenDisk, bytes: number): Promise<void> {
  if (disk.sizeBytes !== undefined || bytes % disk.blockBytes === 0) return;
  const { size } = await disk.file.stat();
  const length = Math.max(bytes, disk.fileBytes);
  if (size > length) await disk.file.truncate(length);
}

/**
 * Repeats fsync while the device answers EIO, as readers do that are busy or were reset.
 * @returns how often it failed. @throws AgentError E_TIMEOUT, E_IO, E_DEVICE_OFFLINE
 */
async function syncUntil(
  disk: OpenDisk,
  { fsyncTimeoutMs }: WriteOptions,
  { signal, log }: TransferContext,
): Promise<{ failures: number }> {
  const deadlineMs = performance.now() + fsyncTimeoutMs;
  for (let failures = 0; ; failures += 1) {
    signal.throwIfAborted();
    try {
      await disk.file.sync();
      return { failures };
    } catch (error) {
      if (!(await disk.isThere())) {
        throw new DeviceOffline(`the medium of ${disk.name} has gone before all was on it`, { cause: error });
      }
      if (!isSystemError(error) || error.code !== "EIO") {
        throw new AgentError("E_IO", `fsync of ${disk.name} failed: ${toAgentError(error).message}`, { cause: error });
      }
      if (performance.now() >= deadlineMs) {
        const seconds = fsyncTimeoutMs / 1_000;
        throw new AgentError("E_TIMEOUT", `fsync of ${disk.name} failed for storage_fsync_timeout (${seconds} s)`, {
          cause: error,
        });
      }
      log.warn(`fsync of ${disk.name}: EIO, trying again`);
      await sleep(syncAgainAfterMs, undefined, { signal });
    }
  }
}

/** @returns seconds since the last time it was asked */
function stopwatch(): () => number {
  let last = performance.now();
  return () => {
    const now = performance.now();
    const seconds = Math.round(now - last) / 1_000;
    last = now;
    return seconds;
  };
}
