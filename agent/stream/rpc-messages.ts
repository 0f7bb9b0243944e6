/** How gRPC puts messages on an HTTP/2 stream: a compression flag, four bytes of length, the message. */
import { AgentError } from "../driver/errors.ts";

export const prefixBytes = 5;

/** Both ends of the Jumpstarter protocol use gRPC's default limit for messages they receive. */
export const maxMessageBytes = 4 * 1024 * 1024;

export function writePrefix(target: Buffer, offset: number, messageLength: number): number {
  target[offset] = 0;
  return target.writeUInt32BE(messageLength, offset + 1);
}

/** A message with its prefix, in one buffer. */
export function prefixed(message: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(prefixBytes + message.length);
  framed.set(message, writePrefix(framed, 0, message.length));
  return framed;
}

/** Cuts the bytes of an HTTP/2 stream into messages; one that lies in a single chunk is not copied. */
export class MessageReader {
  /** What is there of the next message, with its prefix. */
  #parts: Buffer[] = [];
  #have = 0;
  #need = prefixBytes;
  readonly #side: "CLIENT" | "SERVER";

  /** @param side who reads: the text for a message that is too long says it, as gRPC's does */
  constructor(side: "CLIENT" | "SERVER") {
    this.#side = side;
  }

  /** True between two messages, where a stream may end. */
  get atBoundary(): boolean {
    return this.#have === 0;
  }

  /** @throws AgentError E_LIMIT for a message that is too long, E_UNSUPPORTED for a compressed one. */
  read(chunk: Buffer, take: (message: Buffer) => void): void {
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#have > 0) {
        const missing = this.#need - this.#have;
        const part = rest.length <= missing ? rest : rest.subarray(0, missing);
        this.#parts.push(part);
        this.#have += part.length;
        rest = rest.subarray(part.length);
        if (this.#have < this.#need) return;
        const joined = Buffer.concat(this.#parts, this.#have);
        this.#parts = [];
        this.#have = 0;
        const total = this.#need === prefixBytes ? this.#endOf(joined) : this.#need;
        if (joined.length < total) this.#keep(joined, total);
        else this.#finish(joined, take);
      } else if (rest.length < prefixBytes) {
        this.#keep(rest, prefixBytes);
        return;
      } else {
        const end = this.#endOf(rest);
        if (rest.length < end) {
          this.#keep(rest, end);
          return;
        }
        take(rest.subarray(prefixBytes, end));
        rest = rest.subarray(end);
      }
    }
  }

  #keep(part: Buffer, need: number): void {
    this.#parts = [part];
    this.#have = part.length;
    this.#need = need;
  }

  #finish(joined: Buffer, take: (message: Buffer) => void): void {
    this.#need = prefixBytes;
    take(joined.subarray(prefixBytes));
  }

  #endOf(framed: Buffer): number {
    if (framed[0] !== 0) throw new AgentError("E_UNSUPPORTED", "compressed messages are not supported");
    const length = framed.readUInt32BE(1);
    if (length > maxMessageBytes) {
      throw new AgentError(
        "E_LIMIT",
        `${this.#side}: Received message larger than max (${length} vs. ${maxMessageBytes})`,
      );
    }
    return prefixBytes + length;
  }
}
