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

const noBytes = Buffer.alloc(0);

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
    while (rest.length > 0) rest = this.readOne(rest, take);
  }

  /** Reads up to the end of one message. @returns what comes after it. @throws like `read` */
  readOne(chunk: Buffer, take: (message: Buffer) => void): Buffer {
    if (this.#have > 0) return this.#continue(chunk, take);
    const end = chunk.length < prefixBytes ? prefixBytes : this.#endOf(chunk);
    if (chunk.length < end) {
      this.#keep(chunk, end);
      return noBytes;
    }
    take(chunk.subarray(prefixBytes, end));
    return chunk.subarray(end);
  }

  #continue(chunk: Buffer, take: (message: Buffer) => void): Buffer {
    const part = chunk.subarray(0, this.#need - this.#have);
    this.#parts.push(part);
    this.#have += part.length;
    const rest = chunk.subarray(part.length);
    if (this.#have < this.#need) return rest;
    const joined = Buffer.concat(this.#parts, this.#have);
    this.#parts = [];
    this.#have = 0;
    const total = this.#need === prefixBytes ? this.#endOf(joined) : this.#need;
    if (joined.length < total) this.#keep(joined, total);
    else this.#finish(joined, take);
    return rest;
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
