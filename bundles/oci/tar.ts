import { AgentError } from "../../agent/driver/errors.ts";
import { confinedPath } from "../paths.ts";

// POSIX.1-2017 pax, "ustar Interchange Format", and GNU tar's long names.
const blockBytes = 512;
const largestMetadataBytes = 64 * 1024;
const fileTypes = new Set(["0", "\0", "7"]);

/** A file or directory of an archive; a file's content must be read before the next entry is asked for. */
export interface TarEntry {
  readonly path: string;
  readonly kind: "file" | "directory";
  readonly size: number;
  readonly content: AsyncIterable<Buffer>;
}

/**
 * Reads an archive as it comes. Only files and directories exist in a bundle: links, devices and whatever else could
 * lead out of it are refused, and so is every path that does.
 * @param name what errors call the archive
 * @throws AgentError E_INVALID
 */
export async function* readTar(source: AsyncIterable<Buffer>, name: string): AsyncGenerator<TarEntry, void, undefined> {
  const input = new ByteReader(source, name);
  const invalid = (why: string) => new AgentError("E_INVALID", `${name} ${why}`);
  let given: { path?: string; size?: number } = {};
  for (;;) {
    const header = await input.block();
    if (header === undefined || header.every((byte) => byte === 0)) break;
    if (!checksumFits(header)) throw invalid("is not a tar archive, or damaged");
    const type = String.fromCharCode(header[156] ?? 0);
    const isMetadata = type === "x" || type === "g" || type === "L";
    const size = (isMetadata ? undefined : given.size) ?? readNumber(header.subarray(124, 136));
    if (size === undefined || Number.isNaN(size)) throw invalid("has an entry of no clear size");
    if (isMetadata) {
      if (size > largestMetadataBytes) throw invalid("has an overlong header");
      const metadata = await collect(input.take(size));
      await input.skipPadding(size);
      if (type === "L") given.path = text(metadata);
      const records = type === "L" ? [] : readPax(metadata);
      if (records === undefined) throw invalid("has a malformed pax header");
      for (const [key, value] of records) {
        // What is stored is then not what the file is.
        if (key.startsWith("GNU.sparse.")) throw invalid("holds a sparse file, which a bundle cannot have");
        if (type === "g") continue;
        if (key === "path") given.path = value;
        if (key === "size") given.size = /^\d{1,15}$/.test(value) ? Number(value) : NaN;
      }
      continue;
    }
    const written = given.path ?? headerPath(header);
    const shown = JSON.stringify(written.slice(0, 200));
    const kind = fileTypes.has(type) && !written.endsWith("/") ? "file" : "directory";
    if (kind === "directory" && type !== "5" && !fileTypes.has(type)) {
      throw invalid(`holds ${shown}, which is neither a file nor a directory`);
    }
    const path = confinedPath(written);
    given = {};
    if (path === undefined) {
      // `./` is how most archives begin.
      if (kind === "directory" && /^[./]*$/.test(written) && !written.includes("..") && !written.startsWith("/"))
        continue;
      throw invalid(`holds ${shown}, which is no path inside the bundle`);
    }
    if (kind === "directory" && size > 0) throw invalid(`holds the directory ${shown} with content`);
    const content = input.take(size);
    yield { path, kind, size, content };
    // What the reader of the entry left over.
    for await (const _ of content);
    await input.skipPadding(size);
  }
  await input.drain();
}

/** Cuts a stream of chunks into the pieces that are asked for. */
class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>;
  readonly #name: string;
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>, name: string) {
    this.#chunks = source[Symbol.asyncIterator]();
    this.#name = name;
  }

  /** One header block; undefined at the end. */
  async block(): Promise<Buffer | undefined> {
    const bytes = await collect(this.take(blockBytes, true));
    return bytes.length === 0 ? undefined : bytes;
  }

  /** The next `size` bytes as they come. Can be gone through twice: the second time gives what the first left over. */
  take(size: number, mayEnd = false): AsyncIterable<Buffer> {
    let left = size;
    return {
      [Symbol.asyncIterator]: () => ({
        next: async () => {
          if (left === 0) return { done: true, value: undefined };
          const chunk = await this.#next();
          if (chunk === undefined) {
            if (mayEnd && left === size) return { done: true, value: undefined };
            throw new AgentError("E_INVALID", `${this.#name} ends in the middle of an entry`);
          }
          const value = chunk.subarray(0, left);
          this.#rest = chunk.subarray(value.length);
          left -= value.length;
          return { done: false, value };
        },
      }),
    };
  }

  async skipPadding(size: number): Promise<void> {
    for await (const _ of this.take((blockBytes - (size % blockBytes)) % blockBytes));
  }

  /** Reads to the end, so that whoever checks the whole stream sees it. */
  async drain(): Promise<void> {
    while ((await this.#next()) !== undefined);
  }

  async #next(): Promise<Buffer | undefined> {
    const rest = this.#rest;
    this.#rest = rest.subarray(rest.length);
    if (rest.length > 0) return rest;
    for (;;) {
      const next = await this.#chunks.next();
      if (next.done === true) return undefined;
      if (next.value.length > 0) return next.value;
    }
  }
}

async function collect(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const collected: Buffer[] = [];
  for await (const chunk of chunks) collected.push(chunk);
  return Buffer.concat(collected);
}

/** Only POSIX archives have a prefix field; GNU's old ones keep times in its place. */
function headerPath(header: Buffer): string {
  const isPosix = header.toString("latin1", 257, 263) === "ustar\0";
  const prefix = isPosix ? text(header.subarray(345, 500)) : "";
  const name = text(header.subarray(0, 100));
  return prefix === "" ? name : `${prefix}/${name}`;
}

/** Text up to the first NUL. */
function text(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("utf8", 0, end < 0 ? bytes.length : end);
}

/** Octal text, or GNU tar's big-endian binary for sizes beyond 8 GiB. */
function readNumber(field: Buffer): number | undefined {
  if (((field[0] ?? 0) & 0x80) !== 0) {
    const value = Number(field.readBigUInt64BE(field.length - 8));
    const isShort = field[0] === 0x80 && field.subarray(1, -8).every((byte) => byte === 0);
    return isShort && Number.isSafeInteger(value) ? value : undefined;
  }
  const digits = text(field).trim();
  return /^[0-7]+$/.test(digits) ? parseInt(digits, 8) : undefined;
}

function checksumFits(header: Buffer): boolean {
  let sum = 0;
  for (let at = 0; at < blockBytes; at += 1) sum += at >= 148 && at < 156 ? 32 : (header[at] ?? 0);
  return readNumber(header.subarray(148, 156)) === sum;
}

/** `LENGTH KEY=VALUE\n` records; undefined if they are anything else. */
function readPax(bytes: Buffer): [key: string, value: string][] | undefined {
  const records: [string, string][] = [];
  for (let at = 0; at < bytes.length;) {
    const [prefix = "", digits] = /^(\d{1,6}) /.exec(bytes.toString("latin1", at, at + 7)) ?? [];
    const end = at + Number(digits);
    const record = bytes.toString("utf8", at + prefix.length, end - 1);
    const equals = record.indexOf("=");
    if (!(end <= bytes.length) || bytes[end - 1] !== 0x0a || equals < 1) return undefined;
    records.push([record.slice(0, equals), record.slice(equals + 1)]);
    at = end;
  }
  return records;
}
