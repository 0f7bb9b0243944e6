/** The first part of a `multipart/x-mixed-replace` body, as MJPEG cameras send them (RFC 2046 §5.1). */

/** The first delimiter and a part's header are short. */
const mostHeadBytes = 16 * 1024;

/**
 * Takes a body piece by piece. The delimiter is the first line that begins with `--`: what cameras say of it in their
 * Content-Type is often wrong by these two.
 */
export class FirstPart {
  readonly #mostBytes: number;
  #bytes = Buffer.alloc(64 * 1024);
  #length = 0;
  /** Where the content begins, once the part's header is complete. */
  #begin: number | undefined;
  /** Of the content, if its header says so. */
  #size: number | undefined;
  #delimiter = Buffer.alloc(0);
  /** Up to here there is no delimiter. */
  #searched = 0;

  /** @param mostBytes a longer part is an error */
  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  /** @returns the part's content, once it is complete. @throws Error: no multipart body, or a part too long */
  push(chunk: Uint8Array): Uint8Array | undefined {
    this.#append(chunk);
    this.#begin ??= this.#readHead();
    if (this.#begin === undefined) {
      if (this.#length > mostHeadBytes) throw new Error("it is no multipart stream");
      return undefined;
    }
    const content = this.#content(this.#begin);
    if ((content?.length ?? this.#length - this.#begin) > this.#mostBytes || (this.#size ?? 0) > this.#mostBytes) {
      throw new Error(`a part is longer than ${this.#mostBytes} bytes`);
    }
    return content;
  }

  #append(chunk: Uint8Array): void {
    const length = this.#length + chunk.length;
    if (length > this.#bytes.length) {
      const larger = Buffer.alloc(Math.max(length, this.#bytes.length * 2));
      this.#bytes.copy(larger, 0, 0, this.#length);
      this.#bytes = larger;
    }
    this.#bytes.set(chunk, this.#length);
    this.#length = length;
  }

  /** @returns where the content begins; undefined if the part's header has not come yet */
  #readHead(): number | undefined {
    const head = this.#bytes.toString("latin1", 0, Math.min(this.#length, mostHeadBytes));
    const [all, delimiter = "", header = ""] = /(?:^|\n)(--[^\r\n]+)\r?\n((?:[^\r\n]+\r?\n)*)\r?\n/.exec(head) ?? [];
    if (all === undefined) return undefined;
    const size = /^content-length[ \t]*:[ \t]*(\d{1,15})[ \t]*$/im.exec(header)?.[1];
    this.#size = size === undefined ? undefined : Number(size);
    this.#delimiter = Buffer.from(`\n${delimiter.trimEnd()}`, "latin1");
    return (this.#searched = head.indexOf(all) + all.length);
  }

  #content(begin: number): Uint8Array | undefined {
    const bytes = this.#bytes.subarray(0, this.#length);
    if (this.#size !== undefined) {
      return this.#length - begin < this.#size ? undefined : bytes.subarray(begin, begin + this.#size);
    }
    // The line end before a delimiter belongs to it; an empty part has none of its own.
    const end = bytes.indexOf(this.#delimiter, Math.max(begin - 1, this.#searched - this.#delimiter.length));
    this.#searched = this.#length;
    if (end < 0) return undefined;
    return bytes.subarray(begin, Math.max(begin, bytes[end - 1] === 0x0d ? end - 1 : end));
  }
}
