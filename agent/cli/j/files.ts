import { createReadStream, createWriteStream } from "node:fs";
import { rename, rm, stat } from "node:fs/promises";
import type { ContentEncoding, ResourceHandle } from "../../driver/resource.ts";
import type { Run } from "./command.ts";
import { Progress } from "./progress.ts";

type Use<T> = (handle: ResourceHandle) => Promise<T>;

export interface TransferOptions {
  /** Shown before the bar. */
  readonly label: string;
  /** The encoding of the local bytes, if the driver is to see them plain. */
  readonly encoding?: ContentEncoding | undefined;
}

/** What one read of a local file takes. */
const readBytes = 512 * 1024;

const isUrl = (place: string) => /^https?:\/\//.test(place);

/** Lends a local file to a call that reads it. A http(s) URL is fetched by the exporter itself. */
export async function withSource<T>(run: Run, place: string, use: Use<T>, options: TransferOptions): Promise<T> {
  if (isUrl(place)) return await use({ kind: "presigned_request", headers: {}, url: place, method: "GET" });
  const info = await stat(place);
  const file = createReadStream(place, { highWaterMark: readBytes });
  const total = info.isFile() ? info.size : undefined;
  const progress = run.quiet ? undefined : new Progress(options.label, total, () => file.bytesRead);
  try {
    return await run.node.lendSource(file, use, { encoding: options.encoding, signal: run.signal });
  } finally {
    progress?.end();
  }
}

/**
 * Lends a local file to a call that writes it; it gets its name when it is complete. A http(s) URL is filled by
 * the exporter itself.
 */
export async function withSink<T>(run: Run, place: string, use: Use<T>, options: TransferOptions): Promise<T> {
  if (isUrl(place)) return await use({ kind: "presigned_request", headers: {}, url: place, method: "PUT" });
  // A device or a pipe is written as it is.
  const whole = await stat(place).then(
    (info) => info.isFile(),
    () => true,
  );
  const path = whole ? `${place}.part` : place;
  const file = createWriteStream(path);
  const progress = run.quiet ? undefined : new Progress(options.label, undefined, () => file.bytesWritten);
  try {
    const result = await run.node.lendSink(file, use, { encoding: options.encoding, signal: run.signal });
    if (whole) await rename(path, place);
    return result;
  } catch (error) {
    if (whole) await rm(path, { force: true });
    throw error;
  } finally {
    progress?.end();
  }
}
