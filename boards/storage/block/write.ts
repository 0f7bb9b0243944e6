import { addAbortSignal, type Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { toAgentError } from "../../../agent/driver/errors.ts";
import type { Logger } from "../../../agent/driver/log.ts";
import type { ByteRange, FlashTarget } from "../../../agent/driver/receipt.ts";
import type { ContentEncoding } from "../../../agent/driver/resource.ts";
import { bytesOf as contentOf } from "../../../agent/stream/byte-source.ts";
import type { Bmap } from "../image/bmap.ts";
import { openImage, type OpenImage } from "../image/open-image.ts";
import { bytesOf, cellBytes, rangesOf } from "./cells.ts";
import { checksumsOf, copyIn, type Copied, type CopyOptions } from "./copy-in.ts";
import { Digests } from "./digests.ts";
import { openDisk, type DiskOptions, type OpenDisk, type Target } from "./disk.ts";
import { formatBytes } from "./facts.ts";
import { identify } from "./identity.ts";
import { ProgressMeter, type Progress } from "./progress.ts";
import { tooLarge } from "./protection.ts";
import type { BlockChecksums, WrittenBlocks } from "./remembered.ts";
import { StreamDigest } from "./stream-digest.ts";
import { syncUntil } from "./sync.ts";
import { compareWithMedium } from "./verify.ts";
import { WindowRing } from "./window-ring.ts";

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
  /** Of the stream as it comes, when that is known: to tell how long it takes. */
  readonly givenBytes?: number | undefined;
  /** What is known to be on the medium is read and compared, and written only where it differs. */
  readonly remembered?: WrittenBlocks | undefined;
}

export type { Progress };

export interface TransferContext {
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Called before the first byte is written. */
  readonly onReady?: ((target: FlashTarget) => void) | undefined;
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

/** Through the page cache, so many bytes are let run up before they are put on the device. */
const syncEveryBytes = 32 * 1024 * 1024;
const logEveryBytes = 50 * 1024 * 1024;

/**
 * Writes an image to a whole disk, receiving the next piece while one is written; a few pieces of 4 MiB are in memory. When it has returned,
 * the bytes are on the medium, and are read back from there unless that is switched off. When it has thrown, nothing is under way any more.
 * @throws AgentError E_TARGET (refused), E_TIMEOUT (no medium, no end of fsync), E_DEVICE_OFFLINE (medium lost), E_IO, E_ENCODING (the image is
 *   damaged or cut off), E_INVALID (a block map of another image), E_DIGEST (the image is not what its checksums promise, or the medium holds
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
  // It may fail while a medium is waited for; who reads it then finds it so.
  addAbortSignal(signal, source).on("error", () => {});
  // While a medium is looked for, its thread starts.
  const digests = new Digests();
  const givenDigest = new StreamDigest();
  let disk: OpenDisk | undefined;
  try {
    disk = await openDisk(place, "write", options, context);
    const { target, mediumKey } = await identify(disk);
    const medium = await describeMedium(place, context);
    context.onReady?.(target);
    log.info(`storage device ${disk.name} is ready${medium === undefined ? "" : `: ${medium}`}`);
    const remembered = mediumKey === undefined ? undefined : options.remembered;
    const recalled = usable(await remembered?.recall(mediumKey ?? ""));
    // However this ends: nothing is known of a medium that is being written.
    await remembered?.forget(mediumKey ?? "");
    const wait = clock();
    const meter = new ProgressMeter(context.onProgress, options.givenBytes);
    const tools = { ring: new WindowRing(disk), digests };
    const { image, given, copied } = await transfer(source, disk, { ...tools, givenDigest, recalled }, options, {
      ...context,
      meter,
    });
    const bytes = image.bytes();
    const write = clock();
    log.info(`fsyncing storage device ${disk.name}, please wait`);
    meter.tell("sync", 0, bytes);
    const { failures } = await syncUntil(disk, options, context);
    const sync = clock();
    // The kernel reports a lost page once; a later success says nothing about it.
    const mustLook = failures > 0 && !options.verify;
    if (mustLook) log.warn(`fsync of ${disk.name} failed at first: what was written is read back`);
    const verified = options.verify || mustLook;
    const changed = copied.cells.filter(({ isUnchanged }) => !isUnchanged);
    if (verified) {
      log.info(`reading back storage device ${disk.name}`);
      const total = bytesOf(changed);
      meter.tell("verify", 0, total);
      const onCompared = (done: number): void => meter.tell("verify", done, total);
      await compareWithMedium(disk, changed, { ...tools, signal, onCompared });
    }
    const verify = clock();
    await remembered?.remember(mediumKey ?? "", checksumsOf(copied.cells));
    const unchanged = copied.cells.filter(({ isUnchanged }) => isUnchanged);
    const skipped = unchanged.length === 0 ? "" : `, ${formatBytes(bytesOf(unchanged))} were there already`;
    const read = verified ? ", read back and compared" : "";
    log.info(`written ${formatBytes(bytesOf(changed))} to storage device ${disk.name}${read}${skipped}`);
    if (options.leewayMs > 0) {
      meter.tell("leeway", bytes, bytes);
      await sleep(options.leewayMs, undefined, { signal });
    }
    return {
      device: disk.name,
      medium,
      deviceBytes: disk.sizeBytes,
      target,
      encoding: image.encoding,
      imageFormat: image.imageFormat,
      given,
      bytes,
      mappedBytes: bytesOf(copied.cells),
      mappedSha256: copied.sha256,
      written: rangesOf(changed),
      unchanged: rangesOf(unchanged),
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
    source.destroy();
    await Promise.all([digests.close(), givenDigest.close(), disk?.close()]);
  }
}

/** Another version of this agent may have had other blocks. */
function usable(recalled: BlockChecksums | undefined): BlockChecksums | undefined {
  return recalled?.blockBytes === cellBytes ? recalled : undefined;
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

interface Transferred {
  readonly image: OpenImage;
  readonly given: WriteReport["given"];
  readonly copied: Copied;
}

/** From the first byte of the source to the last acknowledged write. */
async function transfer(
  source: Readable,
  disk: OpenDisk,
  {
    givenDigest,
    ...tools
  }: Pick<CopyOptions, "ring" | "digests" | "recalled"> & { readonly givenDigest: StreamDigest },
  options: WriteOptions,
  { signal, log, meter }: TransferContext & { readonly meter: ProgressMeter },
): Promise<Transferred> {
  let unsynced = 0;
  let toLog = 0;
  const image = await openImage(contentOf(source), { ...options, onGiven: (bytes) => givenDigest.update(bytes) });
  try {
    const { promisedBytes, givenBytes } = image;
    if (promisedBytes !== undefined && disk.sizeBytes !== undefined && promisedBytes > disk.sizeBytes) {
      throw tooLarge(disk.name, promisedBytes, disk.sizeBytes);
    }
    if (tools.recalled !== undefined && !disk.isDirect) await disk.calls.forget(disk.file.fd);
    const onWindow = async (writtenBytes: number, reached: number): Promise<void> => {
      unsynced += writtenBytes;
      if (!disk.isDirect && unsynced >= syncEveryBytes) {
        // Otherwise progress is that of memory, and the rest waits in one long fsync.
        await syncUntil(disk, options, { signal, log });
        await disk.calls.forget(disk.file.fd);
        unsynced = 0;
      }
      meter.tell("write", reached, promisedBytes ?? options.imageBytes, givenBytes());
      if (reached > toLog) {
        log.info(`written ${Math.round(reached / (1024 * 1024))} MB to storage device ${disk.name}`);
        toLog += logEveryBytes;
      }
    };
    const copied = await copyIn(image, disk, { ...tools, withChecksums: options.remembered !== undefined, onWindow });
    // The last windows may have been on their way already.
    signal.throwIfAborted();
    await setLength(disk, image.bytes());
    return { image, given: { bytes: givenBytes(), sha256: (await givenDigest.sha256()) ?? copied.sha256 }, copied };
  } finally {
    await image.close();
  }
}

/** A file is as long as the image, or what was there before: not shorter for a hole at its end, not longer for a last whole block. */
async function setLength(disk: OpenDisk, bytes: number): Promise<void> {
  if (disk.sizeBytes !== undefined) return;
  const { size } = await disk.file.stat();
  const length = Math.max(bytes, disk.fileBytes);
  if (size !== length) await disk.file.truncate(length);
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
