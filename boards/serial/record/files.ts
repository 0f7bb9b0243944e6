import { constants } from "node:fs";
import { open, unlink, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, toAgentError } from "../../../agent/driver/errors.ts";
import { encodeEntry, EntryDecoder, type Entry } from "./protocol.ts";
import { listRecord, recordFileName } from "./reader.ts";

export interface RecordFilesOptions {
  /** Makes or finds the folder; asked again after each failure. */
  readonly claim: () => Promise<string>;
  readonly maxFileBytes: number;
  /** How many files stay, with the one that is being written. */
  readonly maxFiles: number;
  /** Told once when entries begin to be kept in memory only. */
  readonly failed: (reason: string) => void;
  readonly recovered: () => void;
}

/** A killed agent loses what came in this time; what is written survives it in the kernel's cache. */
const writeEveryMs = 250;
/** Gathered earlier than that, it is written at once. */
const writeAtBytes = 256 * 1024;
/** A host that loses its power loses what came in this time. More often would wear out SD cards. */
const syncEveryMs = 10_000;
/** What a disk that does not keep up may cost in memory. */
const mostWaitingBytes = 4 * 1024 * 1024;
/** After a failure the disk is left alone for so long. */
const retryMs = 5_000;
/** Most pieces of one write; IOV_MAX of Linux is 1024. */
const mostPieces = 1_000;

/** Rotating files of entries. What cannot be written is left out, and its number with it, so that readers see the gap. */
export class RecordFiles {
  readonly #options: RecordFilesOptions;
  #folder: string | undefined;
  #current: { readonly handle: FileHandle; size: number } | undefined;
  #waiting: { readonly seq: number; readonly bytes: Buffer }[] = [];
  #waitingBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #syncTimer: NodeJS.Timeout | undefined;
  #writing: Promise<void> | undefined;
  #retryAtMs = 0;
  #closed = false;
  /** Why entries are kept in memory only now. */
  problem: string | undefined;
  writtenBytes = 0;
  /** Entries that did not come to the disk. */
  lostEntries = 0;

  constructor(options: RecordFilesOptions) {
    this.#options = options;
  }

  get folder(): string | undefined {
    return this.#folder;
  }

  /** Looks at what an earlier process has left, and cuts off its torn end. @returns the number of the next entry */
  async open(): Promise<number | undefined> {
    try {
      return await this.#resume();
    } catch (error) {
      this.#fail(error);
      return undefined;
    }
  }

  write(entry: Entry): void {
    if (this.#closed) return;
    if (this.#waitingBytes > mostWaitingBytes) {
      this.lostEntries += 1;
      this.#fail(new AgentError("E_IO", "the disk is too slow"));
      return;
    }
    const bytes = encodeEntry(entry);
    this.#waiting.push({ seq: entry.seq, bytes });
    this.#waitingBytes += bytes.length;
    if (this.#waitingBytes >= writeAtBytes) void this.flush();
    else this.#timer ??= setTimeout(() => void this.flush(), writeEveryMs).unref();
  }

  /** Settles when all that was given is written or lost. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing ??= this.#drain().finally(() => (this.#writing = undefined));
    await this.#writing;
  }

  async close(): Promise<void> {
    await this.flush();
    this.#closed = true;
    clearTimeout(this.#syncTimer);
    await this.#sync();
    await this.#shut();
  }

  async #drain(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, mostPieces);
      for (const { bytes } of batch) this.#waitingBytes -= bytes.length;
      let written = 0;
      try {
        if (this.problem !== undefined && performance.now() < this.#retryAtMs) {
          this.lostEntries += batch.length;
          continue;
        }
        while (written < batch.length) written += await this.#append(batch.slice(written));
        if (this.problem !== undefined) {
          this.problem = undefined;
          this.#options.recovered();
        }
      } catch (error) {
        this.lostEntries += batch.length - written;
        await this.#shut();
        this.#fail(error);
      }
    }
  }

  /** Writes the first ones, as many as the file still takes. @returns how many */
  async #append(batch: readonly { readonly seq: number; readonly bytes: Buffer }[]): Promise<number> {
    const first = batch[0] as (typeof batch)[number];
    if (this.#current !== undefined && this.#current.size + first.bytes.length > this.#options.maxFileBytes) {
      await this.#sync();
      await this.#shut();
    }
    const current = (this.#current ??= await this.#begin(first.seq));
    let total = 0;
    let count = 0;
    for (const { bytes } of batch) {
      if (count > 0 && current.size + total + bytes.length > this.#options.maxFileBytes) break;
      total += bytes.length;
      count += 1;
    }
    try {
      let rest = batch.slice(0, count).map(({ bytes }) => bytes);
      for (let left = total; left > 0;) {
        const { bytesWritten } = await current.handle.writev(rest);
        left -= bytesWritten;
        if (left > 0) rest = [Buffer.concat(rest).subarray(bytesWritten)];
      }
    } catch (error) {
      // Half an entry is worse than none.
      await current.handle.truncate(current.size).catch(() => {});
      throw error;
    }
    current.size += total;
    this.writtenBytes += total;
    this.#syncTimer ??= setTimeout(() => {
      this.#syncTimer = undefined;
      void this.#sync();
    }, syncEveryMs).unref();
    return count;
  }

  /** Goes on in the last file of an earlier process. @returns the number of the next entry */
  async #resume(): Promise<number> {
    this.#folder = await this.#options.claim();
    const last = (await listRecord(this.#folder)).at(-1);
    if (last === undefined) return 0;
    const { O_RDWR, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
    const handle = await open(last.path, O_RDWR | O_APPEND | O_NOFOLLOW | O_NONBLOCK);
    try {
      if (!(await handle.stat()).isFile()) throw new AgentError("E_IO", `${last.path} is not a regular file`);
      const decoder = new EntryDecoder();
      let next = last.first;
      for (let offset = 0; ;) {
        const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(256 * 1024), 0, 256 * 1024, offset);
        if (bytesRead === 0) break;
        offset += bytesRead;
        const seq = decoder.push(buffer.subarray(0, bytesRead)).at(-1)?.seq;
        if (seq !== undefined) next = Math.max(next, seq + 1);
      }
      await handle.truncate(decoder.goodBytes);
      this.#current = { handle, size: decoder.goodBytes };
      return next;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async #begin(first: number) {
    const folder = (this.#folder = await this.#options.claim());
    const files = await listRecord(folder);
    for (const { path } of files.slice(0, Math.max(0, files.length - this.#options.maxFiles + 1))) await unlink(path);
    const { O_WRONLY, O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const handle = await open(
      join(folder, recordFileName(first)),
      O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW,
      0o600,
    );
    return { handle, size: 0 };
  }

  #fail(error: unknown): void {
    const reason = toAgentError(error).message;
    this.#retryAtMs = performance.now() + retryMs;
    if (this.problem === undefined) this.#options.failed(reason);
    this.problem = reason;
  }

  async #sync(): Promise<void> {
    await this.#current?.handle.datasync().catch((error: unknown) => this.#fail(error));
  }

  async #shut(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    await current?.handle.close().catch(() => {});
  }
}
