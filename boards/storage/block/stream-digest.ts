import { Digests } from "./digests.ts";

const pieceBytes = 1024 * 1024;
/** One is filled, one digested, and one waits for that. */
const pieces = 3;

/**
 * SHA-256 of bytes that come and go, on a thread of its own, which starts with the first of them. They are copied, which takes a tenth of what
 * digesting them does. Whoever makes one closes it.
 */
export class StreamDigest {
  #digests: Digests | undefined;
  readonly #free: Promise<Buffer>[] = [];

  /** The bytes are not needed any more when it has resolved. One at a time. */
  async update(bytes: Buffer): Promise<void> {
    const digests = (this.#digests ??= this.#start());
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      const piece = await this.#free.shift();
      if (piece === undefined) throw new Error("two updates at a time");
      const end = bytes.copy(piece, 0, at);
      const free = digests.update(piece, [[{ start: 0, end }]]).then(() => piece);
      // Whoever takes it next is told.
      free.catch(() => {});
      this.#free.push(free);
    }
  }

  /** Of all, in hex; undefined if there was nothing. */
  async sha256(): Promise<string | undefined> {
    return this.#digests?.sha256();
  }

  async close(): Promise<void> {
    await this.#digests?.close();
  }

  #start(): Digests {
    for (let count = 0; count < pieces; count += 1) {
      this.#free.push(Promise.resolve(Buffer.from(new SharedArrayBuffer(pieceBytes))));
    }
    return new Digests();
  }
}
