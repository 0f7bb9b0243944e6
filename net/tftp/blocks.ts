import type { FileHandle } from "node:fs/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { headerBytes, writeDataHeader } from "./protocol.ts";

/** Consecutive DATA packets in one buffer; all have `blockBytes` of payload but perhaps the last one of the file. */
interface Chunk {
  readonly firstBlock: number;
  readonly blocks: number;
  readonly packets: Buffer;
}

const chunkBytes = 128 * 1024;

export interface BlockQueueOptions {
  readonly file: FileHandle;
  /** How much of the file is sent; what is appended later is not. */
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly windowSize: number;
  /** Translates what was read, byte by byte: for netascii. */
  readonly translate?: ((bytes: Buffer) => Buffer) | undefined;
  /** Called when packets have been added, or reading failed. */
  readonly onReady: (failure?: unknown) => void;
}

/**
 * The DATA packets of one file, made ahead of need and kept until they are acknowledged. Blocks are counted
 * from 1 and never wrap here.
 */
export class BlockQueue {
  readonly #options: BlockQueueOptions;
  readonly #stride: number;
  /** Room for a full window even where that is more than a chunk. */
  readonly #readBytes: number;
  readonly #chunks: Chunk[] = [];
  #carry: Buffer = Buffer.alloc(0);
  /** Memory of the last read, and of a chunk that is acknowledged: new memory costs more than copying. */
  #readBuffer: Buffer | undefined;
  #spare: Buffer | undefined;
  #position = 0;
  #made = 0;
  #last: number | undefined;
  #reading = false;
  #closed = false;

  constructor(options: BlockQueueOptions) {
    this.#options = options;
    const { blockSizeBytes, windowSize } = options;
    this.#stride = headerBytes + blockSizeBytes;
    this.#readBytes = Math.max(windowSize, Math.floor(chunkBytes / blockSizeBytes)) * blockSizeBytes;
  }

  /** Number of the last block, the one that is not full; undefined while it has not been read. */
  get last(): number | undefined {
    return this.#last;
  }

  /** The packet of a block that is not yet acknowledged; undefined while it has not been read. */
  packet(block: number): Buffer | undefined {
    for (const chunk of this.#chunks) {
      const index = block - chunk.firstBlock;
      if (index >= 0 && index < chunk.blocks) {
        return chunk.packets.subarray(index * this.#stride, (index + 1) * this.#stride);
      }
    }
    return undefined;
  }

  /** Forgets what is acknowledged and reads on. */
  acknowledge(block: number): void {
    for (let oldest = this.#chunks[0]; oldest !== undefined; oldest = this.#chunks[0]) {
      if (block < oldest.firstBlock + oldest.blocks - 1) break;
      this.#spare = this.#chunks.shift()?.packets;
    }
    this.readAhead();
  }

  /** Keeps one more chunk than the window needs. */
  readAhead(): void {
    if (this.#reading || this.#closed || this.#last !== undefined || this.#chunks.length > 1) return;
    this.#reading = true;
    this.#fill().then(
      () => this.#done(),
      (failure: unknown) => this.#done(failure),
    );
  }

  /** Closes the file, now or when the running read ends. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#chunks.length = 0;
    if (!this.#reading) this.#closeFile();
  }

  #done(failure?: unknown): void {
    this.#reading = false;
    if (this.#closed) return this.#closeFile();
    this.#options.onReady(failure);
    this.readAhead();
  }

  #closeFile(): void {
    // Nothing was written, so nothing can be lost by a failing close.
    this.#options.file.close().catch(() => {});
  }

  async #fill(): Promise<void> {
    const { sizeBytes, blockSizeBytes, translate } = this.#options;
    const wanted = Math.min(this.#readBytes, sizeBytes - this.#position);
    const raw = await this.#read(wanted);
    const bytes = translate === undefined ? raw : Buffer.concat([this.#carry, translate(raw)]);
    const atEnd = this.#position === sizeBytes;
    const full = Math.floor(bytes.length / blockSizeBytes);
    const rest = bytes.subarray(full * blockSizeBytes);
    this.#carry = atEnd ? Buffer.alloc(0) : rest;
    // A file that ends on a block's border is closed by an empty block (RFC 1350).
    const blocks = atEnd ? full + 1 : full;
    if (blocks === 0) return this.#fill();
    const length = full * this.#stride + (atEnd ? headerBytes + rest.length : 0);
    // A copy of an acknowledged packet may still wait in the socket and then carries what lies there by now. That is
    // harmless while all packets are equally long, so the file's end gets memory of its own.
    const isReusable = !atEnd && this.#spare?.length === length;
    const packets = isReusable && this.#spare !== undefined ? this.#spare : Buffer.allocUnsafeSlow(length);
    this.#spare = undefined;
    for (let index = 0; index < blocks; index += 1) {
      const offset = index * this.#stride;
      writeDataHeader(packets, offset, this.#made + index + 1);
      bytes.copy(packets, offset + headerBytes, index * blockSizeBytes, (index + 1) * blockSizeBytes);
    }
    this.#chunks.push({ firstBlock: this.#made + 1, blocks, packets });
    this.#made += blocks;
    if (atEnd) this.#last = this.#made;
  }

  async #read(length: number): Promise<Buffer> {
    this.#readBuffer ??= Buffer.allocUnsafeSlow(length);
    const buffer = this.#readBuffer.subarray(0, length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await this.#options.file.read(buffer, filled, length - filled, this.#position);
      if (bytesRead === 0) throw new AgentError("E_IO", "the file became shorter while it was sent");
      filled += bytesRead;
      this.#position += bytesRead;
    }
    return buffer;
  }
}

/** RFC 764's line ends, as netascii wants them: LF becomes CR LF, a bare CR becomes CR NUL. */
export function toNetascii(bytes: Buffer): Buffer {
  const [nul, lf, cr] = [0, 10, 13];
  let extra = 0;
  for (const byte of bytes) if (byte === lf || byte === cr) extra += 1;
  const translated = Buffer.allocUnsafe(bytes.length + extra);
  let at = 0;
  for (const byte of bytes) {
    if (byte === lf) translated[at++] = cr;
    translated[at++] = byte;
    if (byte === cr) translated[at++] = nul;
  }
  return translated;
}
