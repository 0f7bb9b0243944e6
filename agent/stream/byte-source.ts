import { open, type FileHandle } from "node:fs/promises";
import { addAbortSignal, Readable } from "node:stream";

/** Bytes that are read into memory of the reader: a stream of gigabytes then leaves none to the collector. */
export interface ByteSource {
  /** Reads what there is, up to the length of `memory`, which is not empty. One at a time. @returns how many; 0 at the end, also when asked again */
  read(memory: Buffer): Promise<number>;
}

/** The bytes of a stream: a file's are read as they are, the pieces of others copied. */
export function bytesOf(stream: AsyncIterable<Buffer>): ByteSource {
  if (stream instanceof FileStream) return stream.content;
  const pieces = stream[Symbol.asyncIterator]();
  let rest: Buffer = Buffer.alloc(0);
  return {
    async read(memory) {
      while (rest.length === 0) {
        const next = await pieces.next();
        if (next.done === true) return 0;
        rest = next.value;
      }
      const count = rest.copy(memory);
      rest = rest.subarray(count);
      return count;
    },
  };
}

/** Fills `memory`, or what there is up to the end. @returns how many bytes */
export async function readFully(source: ByteSource, memory: Buffer): Promise<number> {
  let done = 0;
  while (done < memory.length) {
    const count = await source.read(memory.subarray(done));
    if (count === 0) break;
    done += count;
  }
  return done;
}

/** Of one piece, where it is read as a stream. */
const pieceBytes = 512 * 1024;

/** A file from its first byte on, as a stream or, for those who know it, with {@link bytesOf}; not both. */
export class FileStream extends Readable {
  readonly content: ByteSource = { read: (memory) => this.#next(memory) };
  readonly #file: FileHandle;
  #at = 0;

  /** @param file is closed with the stream */
  constructor(file: FileHandle) {
    super({ highWaterMark: pieceBytes });
    this.#file = file;
  }

  /** @param signal destroys it. @throws the system's error */
  static async open(path: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FileStream> {
    const stream = new FileStream(await open(path));
    return signal === undefined ? stream : addAbortSignal(signal, stream);
  }

  async #next(memory: Buffer): Promise<number> {
    if (this.destroyed) throw this.errored ?? new Error("the file is closed");
    const { bytesRead } = await this.#file.read(memory, 0, memory.length, this.#at);
    this.#at += bytesRead;
    return bytesRead;
  }

  override _read(): void {
    const memory = Buffer.allocUnsafeSlow(pieceBytes);
    this.#next(memory).then(
      (count) => this.push(count === 0 ? null : memory.subarray(0, count)),
      (error: unknown) => this.destroy(error as Error),
    );
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    // Waits for the read that is under way.
    this.#file.close().then(
      () => done(error),
      (failure: unknown) => done(error ?? (failure as Error)),
    );
  }
}
