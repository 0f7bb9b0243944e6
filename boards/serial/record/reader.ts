import { constants } from "node:fs";
import { lstat, open, readdir, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { EntryDecoder, type Entry } from "./protocol.ts";

/** A file of a record is named by the sequence number of its first entry. */
export interface RecordFile {
  readonly path: string;
  readonly first: number;
  readonly bytes: number;
}

const readBytes = 256 * 1024;

export function recordFileName(first: number): string {
  return `${String(first).padStart(15, "0")}.rec`;
}

/** The files of one console, oldest first; none if the folder is not there. */
export async function listRecord(folder: string): Promise<RecordFile[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  const files: RecordFile[] = [];
  for (const name of names.filter((name) => /^\d{15}\.rec$/.test(name)).sort()) {
    const path = join(folder, name);
    const found = await lstat(path).catch(() => undefined); // overwritten a moment ago
    if (found?.isFile()) files.push({ path, first: Number(name.slice(0, 15)), bytes: found.size });
  }
  return files;
}

/** Reads a record that may grow and lose its oldest files meanwhile. */
export class RecordReader {
  readonly #folder: string;
  /** Sequence number of the next entry that is wanted. */
  #from: number;
  #current: { readonly file: RecordFile; readonly handle: FileHandle } | undefined;
  #offset = 0;
  #decoder = new EntryDecoder();

  constructor(folder: string, from = 0) {
    this.#folder = folder;
    this.#from = from;
  }

  /** Some of the entries that follow; empty when there are no more now. */
  async read(): Promise<Entry[]> {
    for (;;) {
      const current = this.#current ?? (await this.#openNext(undefined));
      if (current === undefined) return [];
      let entries = await this.#readMore(current.handle);
      if (entries === undefined) {
        const next = await this.#following(current.file);
        if (next === undefined) return [];
        // It may have been written between the look at its end and the look for its successor.
        entries = await this.#readMore(current.handle);
        if (entries === undefined) await this.#openNext(current.file);
      }
      const wanted = (entries ?? []).filter(({ seq }) => seq >= this.#from);
      const last = wanted.at(-1);
      if (last === undefined) continue;
      this.#from = last.seq + 1;
      return wanted;
    }
  }

  async close(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    await current?.handle.close();
  }

  /** Undefined at the end of the file. */
  async #readMore(handle: FileHandle): Promise<Entry[] | undefined> {
    const { size } = await handle.stat();
    if (size < this.#offset) {
      // An agent that began anew has cut off a torn entry.
      this.#offset = 0;
      this.#decoder = new EntryDecoder();
    }
    const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(readBytes), 0, readBytes, this.#offset);
    if (bytesRead === 0) return undefined;
    this.#offset += bytesRead;
    return this.#decoder.push(buffer.subarray(0, bytesRead));
  }

  async #following(file: RecordFile): Promise<RecordFile | undefined> {
    return (await listRecord(this.#folder)).find(({ first }) => first > file.first);
  }

  /** Opens what comes after a file, or the file in which the first wanted entry is. */
  async #openNext(file: RecordFile | undefined) {
    await this.close();
    for (const after = file; ;) {
      const files = await listRecord(this.#folder);
      const candidates = files.filter(({ first }) => first > (after?.first ?? -1));
      const next =
        after === undefined
          ? (candidates.findLast(({ first }) => first <= this.#from) ?? candidates[0])
          : candidates[0];
      if (next === undefined) return undefined;
      const { O_RDONLY, O_NOFOLLOW } = constants;
      const handle = await open(next.path, O_RDONLY | O_NOFOLLOW).catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return undefined; // overwritten a moment ago
        throw error;
      });
      if (handle === undefined) continue;
      this.#offset = 0;
      this.#decoder = new EntryDecoder();
      this.#current = { file: next, handle };
      return this.#current;
    }
  }
}
