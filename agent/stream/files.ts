import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { open, unlink, type FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Writable, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

/** What one system call writes: a stream of 64 KiB frames would otherwise cost one each. */
const batchBytes = 1024 * 1024;

/** What one system call reads. */
const readBytes = 512 * 1024;

interface PumpOptions {
  /** Ends the transfer; both streams are destroyed. */
  signal?: AbortSignal;
}

/**
 * Gathers a stream into batches of about 1 MiB and hands them on one after the other, receiving the next
 * one while one is written. At most two batches are in memory.
 * @returns the number of bytes. When it has returned or thrown, no write is under way.
 */
export async function pumpBatches(
  source: Readable,
  write: (batch: Buffer[]) => Promise<unknown>,
  options: PumpOptions = {},
): Promise<number> {
  let batch: Buffer[] = [];
  let pendingBytes = 0;
  let totalBytes = 0;
  let inFlight: Promise<unknown> = Promise.resolve();
  const flush = async () => {
    await inFlight;
    const full = batch;
    batch = [];
    pendingBytes = 0;
    inFlight = write(full);
    // Whoever comes next awaits it; until then a failure must not count as unhandled.
    inFlight.catch(() => {});
  };
  const gather = new Writable({
    highWaterMark: batchBytes,
    write(chunk: Buffer, _encoding, done) {
      batch.push(chunk);
      pendingBytes += chunk.length;
      totalBytes += chunk.length;
      if (pendingBytes < batchBytes) done();
      else flush().then(() => done(), done);
    },
    final(done) {
      const rest = pendingBytes > 0 ? flush() : Promise.resolve();
      rest.then(() => inFlight).then(() => done(), done);
    },
  });
  try {
    await pipeline(source, gather, options);
  } finally {
    await inFlight.catch(() => {});
  }
  return totalBytes;
}

/** Writes all of `batch` at `position`, however many system calls it takes. @returns the position after it */
export async function writeFully(file: FileHandle, batch: readonly Buffer[], position: number): Promise<number> {
  let rest = batch;
  let at = position;
  while (rest.length > 0) {
    const { bytesWritten } = await file.writev(rest, at);
    at += bytesWritten;
    rest = skipBytes(rest, bytesWritten);
  }
  return at;
}

function skipBytes(batch: readonly Buffer[], count: number): readonly Buffer[] {
  let skip = count;
  for (const [index, buffer] of batch.entries()) {
    if (skip < buffer.length) return [buffer.subarray(skip), ...batch.slice(index + 1)];
    skip -= buffer.length;
  }
  return [];
}

/** Writes a stream into an open file from `position` on. @returns the number of bytes */
export async function streamIntoFile(
  source: Readable,
  file: FileHandle,
  options: PumpOptions & { position?: number } = {},
): Promise<number> {
  let at = options.position ?? 0;
  return pumpBatches(
    source,
    async (batch) => {
      at = await writeFully(file, batch, at);
    },
    options,
  );
}

/** The bytes of an open file from `start` up to `end` (exclusive) or where the file ends, in large chunks. */
export async function* fileChunks(
  file: FileHandle,
  start = 0,
  end = Infinity,
): AsyncGenerator<Buffer, void, undefined> {
  let at = start;
  while (at < end) {
    const buffer = Buffer.allocUnsafeSlow(Math.min(readBytes, end - at));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** Sends an open file and ends the sink. */
export async function fileIntoStream(file: FileHandle, sink: Writable, options: PumpOptions = {}): Promise<void> {
  await pipeline(fileChunks(file), sink, options);
}

/**
 * A file without a name: nobody else can open it, and the kernel frees its space when it is closed, also after a crash.
 * @param folder on whose disk it takes its space
 */
export async function openNamelessFile(folder = tmpdir()): Promise<FileHandle> {
  const path = join(folder, `jmp-agent-${randomUUID()}`);
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const file = await open(path, flags, 0o600);
  try {
    await unlink(path);
  } catch (error) {
    await file.close();
    throw error;
  }
  return file;
}

/** A handle of its own on the same open file, so that closing one leaves the other alone. */
export function reopen(file: FileHandle, flags: string | number): Promise<FileHandle> {
  return open(`/proc/self/fd/${file.fd}`, flags);
}
