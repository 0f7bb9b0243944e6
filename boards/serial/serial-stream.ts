import { Duplex } from "node:stream";
import type { Pacer } from "./pacing.ts";

/** What a slow reader may lag behind: minutes of a busy console. */
const receiveLimitBytes = 4 * 1024 * 1024;

/** Cost of keeping one chunk, so that single characters count for what they are. */
const chunkOverheadBytes = 128;

/** What a client may have waiting to be sent: it can write a script, say goodbye and leave the rest to us. */
const sendLimitBytes = 1024 * 1024;

/** The port as one of its streams sees it. */
export interface PortSide {
  /** Puts bytes at the end of the port's send queue; `sent` is called when the port has taken them, or never will. */
  send(from: SerialStream, data: Buffer, sent: () => void): void;
  /** The stream can take more. */
  hasRoom(): void;
  detach(from: SerialStream): void;
}

/**
 * One client's view of a port. What it writes is taken quickly and sent in the background, also after it ended
 * (`end()`); only a stream destroyed without `end()` takes back what it had not sent. What is received arrives as it
 * came, one chunk each.
 */
export class SerialStream extends Duplex {
  readonly pacer: Pacer | undefined;
  readonly #port: PortSide;
  readonly #received: Buffer[] = [];
  #receivedBytes = 0;
  #wanted = false;
  #over: { error: Error | undefined } | undefined;
  #sendingBytes = 0;
  #resumeWrite: (() => void) | undefined;

  /** The port's own: it outlives the closings that leases ask for. */
  readonly keeps: boolean;

  /** Bytes that this stream lost because it was not read. */
  droppedBytes = 0;

  constructor(port: PortSide, pacer: Pacer | undefined, { keeps = false } = {}) {
    // With one chunk of buffer, `_read` means that everything before has been taken.
    super({ readableObjectMode: true, readableHighWaterMark: 1 });
    this.#port = port;
    this.pacer = pacer;
    this.keeps = keeps;
    this.on("error", () => {}); // may break between two readers; it stays in `errored`
  }

  /** True while a chunk would be dropped. */
  get full(): boolean {
    return this.#receivedBytes >= receiveLimitBytes;
  }

  /** True when nothing more is received, and nothing more shall be sent. */
  get isOver(): boolean {
    return this.#over !== undefined;
  }

  deliver(chunk: Buffer): void {
    if (this.#over !== undefined) return;
    if (this.full) {
      this.droppedBytes += chunk.length;
    } else {
      this.#received.push(chunk);
      this.#receivedBytes += chunk.length + chunkOverheadBytes;
      this.#pass();
    }
  }

  /** Ends the stream after what was received: as end of file, or as broken. */
  finish(error?: Error): void {
    this.#over ??= { error };
    this.#resumeWrite?.();
    this.#pass();
  }

  #pass(): void {
    while (this.#wanted) {
      const chunk = this.#received.shift();
      if (chunk === undefined) break;
      const wasFull = this.full;
      this.#receivedBytes -= chunk.length + chunkOverheadBytes;
      this.#wanted = this.push(chunk);
      if (wasFull && !this.full) this.#port.hasRoom();
    }
    if (!this.#wanted || this.#over === undefined) return;
    this.#wanted = false;
    if (this.#over.error === undefined) this.push(null);
    else this.destroy(this.#over.error);
  }

  override _read(): void {
    this.#wanted = true;
    this.#pass();
  }

  override _write(data: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    if (data.length === 0 || this.#over !== undefined) return done();
    this.#sendingBytes += data.length;
    this.#port.send(this, data, () => {
      this.#sendingBytes -= data.length;
      if (this.#sendingBytes < sendLimitBytes) this.#resumeWrite?.();
    });
    if (this.#sendingBytes < sendLimitBytes) return done();
    this.#resumeWrite = () => {
      this.#resumeWrite = undefined;
      done();
    };
  }

  /** Finished means sent. */
  override _final(done: (error?: Error | null) => void): void {
    if (this.#over !== undefined) return done();
    this.#port.send(this, Buffer.alloc(0), () => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#port.detach(this);
    done(error);
  }
}
