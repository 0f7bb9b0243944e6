import { decodeFrame, frameHeadLength, frameTypes, payloadTag, type Frame } from "./frames.ts";
import { maxMessageBytes, MessageReader, prefixBytes } from "./rpc-messages.ts";

/** Prefix, tag and a length of up to 4 MiB. */
const longestHeadBytes = prefixBytes + frameHeadLength(maxMessageBytes, frameTypes.DATA);

export interface FrameReaderOptions {
  /** Who reads, for errors. */
  readonly side: "CLIENT" | "SERVER";
  /**
   * True if boundaries mean nothing: payloads are handed on in the pieces in which they come, because joining them
   * costs as much as all else that is done with them.
   */
  readonly bytes: boolean;
}

/** Reads the frames of a router stream from the bytes of its HTTP/2 stream. */
export class FrameReader {
  readonly #messages: MessageReader;
  readonly #bytes: boolean;
  /** What is still to come of a payload whose beginning was handed on. */
  #pending = 0;

  constructor({ side, bytes }: FrameReaderOptions) {
    this.#messages = new MessageReader(side);
    this.#bytes = bytes;
  }

  /** True between two frames, where a stream may end. */
  get atBoundary(): boolean {
    return this.#pending === 0 && this.#messages.atBoundary;
  }

  /** @throws AgentError for what is no frame; nothing can be read after that. */
  read(chunk: Buffer, take: (frame: Frame) => void): void {
    const takeMessage = (message: Buffer) => take(decodeFrame(message));
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#bytes && this.#pending === 0 && this.#messages.atBoundary) {
        const head = readDataHead(rest);
        if (head !== undefined) {
          this.#pending = head.payloadBytes;
          rest = rest.subarray(head.bytes);
          continue;
        }
      }
      if (this.#pending > 0) {
        const payload = rest.subarray(0, this.#pending);
        this.#pending -= payload.length;
        rest = rest.subarray(payload.length);
        take({ payload, frameType: frameTypes.DATA });
      } else {
        rest = this.#messages.readOne(rest, takeMessage);
      }
    }
  }
}

/**
 * What stands before the payload of a DATA frame, if the chunk begins with all of it and the frame is written as
 * everybody writes it: the payload is its one field.
 */
function readDataHead(chunk: Buffer): { bytes: number; payloadBytes: number } | undefined {
  if (chunk.length < longestHeadBytes || chunk[0] !== 0 || chunk[prefixBytes] !== payloadTag) return undefined;
  const messageBytes = chunk.readUInt32BE(1);
  if (messageBytes > maxMessageBytes) return undefined;
  let payloadBytes = 0;
  for (let at = prefixBytes + 1, scale = 1; at < longestHeadBytes; at += 1, scale *= 0x80) {
    const byte = chunk[at] as number;
    payloadBytes += (byte & 0x7f) * scale;
    if (byte < 0x80) {
      const bytes = at + 1;
      return bytes + payloadBytes === prefixBytes + messageBytes ? { bytes, payloadBytes } : undefined;
    }
  }
  return undefined;
}
