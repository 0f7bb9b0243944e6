import { AgentError } from "../../../agent/driver/errors.ts";

/** Takes a stream of pieces of any length apart into fields. */
export class ByteReader {
  readonly #pieces: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);
  readonly #what: string;

  /** @param what for errors: `Android sparse image` */
  constructor(pieces: AsyncIterable<Buffer>, what: string) {
    this.#pieces = pieces[Symbol.asyncIterator]();
    this.#what = what;
  }

  /** Exactly so many bytes, for small fields. @throws AgentError E_ENCODING when there are fewer */
  async take(bytes: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const part of this.stream(bytes)) parts.push(part);
    const [only = Buffer.alloc(0), second] = parts;
    return second === undefined ? only : Buffer.concat(parts);
  }

  /** Exactly so many bytes, in the pieces in which they come. @throws as take */
  async *stream(bytes: number): AsyncGenerator<Buffer, void, undefined> {
    for (let missing = bytes; missing > 0;) {
      if (!(await this.#more())) {
        throw new AgentError("E_ENCODING", `the ${this.#what} is cut off: ${missing} bytes of one part are missing`);
      }
      const part = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(part.length);
      missing -= part.length;
      yield part;
    }
  }

  async atEnd(): Promise<boolean> {
    return !(await this.#more());
  }

  async #more(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const next = await this.#pieces.next();
      if (next.done === true) return false;
      this.#rest = next.value;
    }
    return true;
  }
}
