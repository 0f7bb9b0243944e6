/**
 * One `RouterService.Stream` as a Duplex: a chunk written is a DATA frame sent, a frame received is a chunk read,
 * ending it says GOAWAY, and EOF is the peer's GOAWAY or the end of its half. The carrier is what moves frames: an
 * HTTP/2 stream on the server, another on the client.
 */
import { Duplex } from "node:stream";
import { AgentError } from "../driver/errors.ts";
import { frameTypes, type Frame } from "./frames.ts";

export interface Carrier {
  /** Sends frames of one type, a payload each; `done` comes when the transport has taken them. */
  send(payloads: readonly Uint8Array[], frameType: number, done: (error?: Error | null) => void): void;
  /** Our half is over (GOAWAY is sent); a client also half-closes its call here. */
  finish(): void;
  /** Frames are wanted, or not for now. */
  flow(wanted: boolean): void;
  /** The stream was destroyed before its end. */
  destroy(error: Error | null): void;
}

export interface RouterStreamOptions {
  /**
   * True if boundaries mean nothing to this stream: long chunks are cut, and chunks that wait are sent as one frame.
   */
  readonly bytes?: boolean;
  /** Where long chunks are cut. Python's clients and the router take messages of 4 MiB at most. */
  readonly largestFrameBytes?: number;
}

/** What everyone sends. */
const usualFrameBytes = 64 * 1024;

export class RouterStream extends Duplex {
  readonly #carrier: Carrier;
  readonly #bytes: boolean;
  readonly #largestFrameBytes: number;
  #ended = false;
  /** Payload bytes of the peer so far. */
  receivedBytes = 0;
  /** Payload bytes that were handed to the transport so far. */
  sentBytes = 0;

  constructor(carrier: Carrier, options: RouterStreamOptions = {}) {
    const objectMode = options.bytes !== true;
    super({ objectMode, highWaterMark: objectMode ? 16 : 16 * usualFrameBytes, allowHalfOpen: true });
    this.#carrier = carrier;
    this.#bytes = options.bytes ?? false;
    this.#largestFrameBytes = options.largestFrameBytes ?? usualFrameBytes;
  }

  /** True once the peer's end was taken. */
  get hasEnded(): boolean {
    return this.#ended;
  }

  /** For the carrier: a frame has come. PING, empty and unknown frames mean nothing. */
  receive(frame: Frame): void {
    if (this.destroyed || this.#ended) return;
    if (frame.frameType === frameTypes.DATA) {
      this.receivedBytes += frame.payload.length;
      if (frame.payload.length > 0 && !this.push(frame.payload)) this.#carrier.flow(false);
    } else if (frame.frameType === frameTypes.GOAWAY) {
      this.receiveEnd();
    } else if (frame.frameType === frameTypes.RST_STREAM) {
      this.destroy(new AgentError("E_CANCELLED", "the stream was reset by its peer"));
    }
  }

  /** For the carrier: the peer will send nothing more. */
  receiveEnd(): void {
    if (this.#ended || this.destroyed) return;
    this.#ended = true;
    this.push(null);
    // What may still come is thrown away; it must not stop the transport.
    this.#carrier.flow(true);
  }

  override _read(): void {
    this.#carrier.flow(true);
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    this.#send([chunk], done);
  }

  override _writev(chunks: { chunk: Uint8Array }[], done: (error?: Error | null) => void): void {
    this.#send(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }

  #send(chunks: readonly Uint8Array[], done: (error?: Error | null) => void): void {
    for (const chunk of chunks) this.sentBytes += chunk.length;
    const payloads = this.#bytes
      ? asFrames(chunks, this.#largestFrameBytes)
      : chunks.filter((chunk) => chunk.length > 0);
    if (payloads.length === 0) done();
    else this.#carrier.send(payloads, frameTypes.DATA, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#carrier.send([noBytes], frameTypes.GOAWAY, (error) => {
      if (!error) this.#carrier.finish();
      done(error);
    });
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#carrier.destroy(error);
    done(error);
  }
}

const noBytes = Buffer.alloc(0);

/** Joins small chunks and cuts large ones. */
function asFrames(chunks: readonly Uint8Array[], largestFrameBytes: number): Uint8Array[] {
  const frames: Uint8Array[] = [];
  let small: Uint8Array[] = [];
  let smallBytes = 0;
  const flush = () => {
    if (small.length === 1) frames.push(...small);
    else if (small.length > 1) frames.push(Buffer.concat(small, smallBytes));
    small = [];
    smallBytes = 0;
  };
  for (const chunk of chunks) {
    if (smallBytes + chunk.length > largestFrameBytes) flush();
    if (chunk.length <= largestFrameBytes) {
      if (chunk.length > 0) small.push(chunk);
      smallBytes += chunk.length;
      continue;
    }
    for (let at = 0; at < chunk.length; at += largestFrameBytes) {
      frames.push(chunk.subarray(at, at + largestFrameBytes));
    }
  }
  flush();
  return frames;
}
