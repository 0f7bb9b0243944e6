import type { Payload } from "./payload.ts";
import { blockNumber, headerBytes, writeDataHeader, type Rollover } from "./protocol.ts";

/** Memory for consecutive DATA packets, one behind the other as they are sent. */
interface Memory {
  readonly packets: Buffer;
  /** Where their payloads go. */
  readonly payloads: readonly Buffer[];
}

/** Consecutive DATA packets; all are equally long but perhaps the last one of the file. */
interface Chunk {
  readonly firstBlock: number;
  readonly blocks: number;
  readonly packets: Buffer;
  readonly memory: Memory;
}

const chunkBytes = 128 * 1024;
/** Small blocks cost by their number; of an iovec the kernel takes 1024 at once. */
const chunkBlocks = 512;

export interface BlockQueueOptions {
  readonly payload: Payload;
  readonly blockSizeBytes: number;
  readonly windowSize: number;
  readonly rollover: Rollover;
  /** Called when packets have been added, or reading failed. */
  readonly onReady: (failure?: unknown) => void;
  /** Called once, when nothing is read any more. */
  readonly onClose: () => void;
}

/**
 * The DATA packets of one file, made ahead of need and kept until they are acknowledged. Blocks are counted from 1
 * without end. The file is read straight into the packets, and the packets of a window lie side by side, so that they
 * can be sent with one system call.
 */
export class BlockQueue {
  readonly #options: BlockQueueOptions;
  /** Bytes from one packet to the next. */
  readonly strideBytes: number;
  /** Whole windows, so that as a rule none is torn between two chunks. */
  readonly #chunkBlocks: number;
  readonly #chunks: Chunk[] = [];
  /** Of an acknowledged chunk: new memory costs more than reading does. */
  #spare: Memory | undefined;
  #made = 0;
  #last: number | undefined;
  #reading = false;
  #closed = false;

  constructor(options: BlockQueueOptions) {
    this.#options = options;
    const { blockSizeBytes, windowSize } = options;
    this.strideBytes = headerBytes + blockSizeBytes;
    const blocks = Math.min(chunkBlocks, Math.floor(chunkBytes / blockSizeBytes));
    this.#chunkBlocks = windowSize * Math.max(1, Math.floor(blocks / windowSize));
  }

  get blockSizeBytes(): number {
    return this.#options.blockSizeBytes;
  }

  /** Number of the last block, the one that is not full; undefined while it has not been read. */
  get last(): number | undefined {
    return this.#last;
  }

  /**
   * The packets of up to `count` blocks from `block` on that lie side by side; perhaps fewer than are in the queue.
   * @returns undefined while the first of them has not been read
   */
  packets(block: number, count: number): Buffer | undefined {
    for (const { firstBlock, blocks, packets } of this.#chunks) {
      const index = block - firstBlock;
      if (index >= 0 && index < blocks) {
        return packets.subarray(index * this.strideBytes, (index + count) * this.strideBytes);
      }
    }
    return undefined;
  }

  /** Forgets what is acknowledged and reads on. */
  acknowledge(block: number): void {
    for (let oldest = this.#chunks[0]; oldest !== undefined; oldest = this.#chunks[0]) {
      if (block < oldest.firstBlock + oldest.blocks - 1) break;
      this.#spare = this.#chunks.shift()?.memory;
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

  /** Now, or when the running read ends. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#chunks.length = 0;
    if (!this.#reading) this.#options.onClose();
  }

  #done(failure?: unknown): void {
    this.#reading = false;
    if (this.#closed) return this.#options.onClose();
    this.#options.onReady(failure);
    this.readAhead();
  }

  async #fill(): Promise<void> {
    const { payload, blockSizeBytes, rollover } = this.#options;
    const memory = this.#takeMemory(payload.remainingBytes);
    const filled = await payload.fill(memory.payloads);
    const full = Math.floor(filled / blockSizeBytes);
    const atEnd = full < memory.payloads.length;
    // A file that ends on a block's border is closed by an empty block (RFC 1350).
    const blocks = atEnd ? full + 1 : full;
    const length = atEnd ? full * this.strideBytes + headerBytes + (filled % blockSizeBytes) : memory.packets.length;
    for (let index = 0; index < blocks; index += 1) {
      const number = blockNumber(this.#made + index + 1, rollover);
      writeDataHeader(memory.packets, index * this.strideBytes, number);
    }
    this.#chunks.push({ firstBlock: this.#made + 1, blocks, packets: memory.packets.subarray(0, length), memory });
    this.#made += blocks;
    if (atEnd) this.#last = this.#made;
  }

  /**
   * A copy of an acknowledged packet may still wait in the socket and then carries what lies there by now: the old
   * number with new bytes, which the client drops as old, or all of a later packet. Both are harmless as long as all
   * packets are equally long, so only memory that surely gets full is used again.
   */
  #takeMemory(remainingBytes: number | undefined): Memory {
    const { blockSizeBytes } = this.#options;
    const spare = this.#spare;
    this.#spare = undefined;
    if (remainingBytes !== undefined && remainingBytes >= this.#chunkBlocks * blockSizeBytes) {
      return spare ?? this.#newMemory(this.#chunkBlocks);
    }
    const blocks = remainingBytes === undefined ? Infinity : Math.floor(remainingBytes / blockSizeBytes) + 1;
    return this.#newMemory(Math.min(blocks, this.#chunkBlocks));
  }

  #newMemory(blocks: number): Memory {
    const packets = Buffer.allocUnsafeSlow(blocks * this.strideBytes);
    const payloads = Array.from({ length: blocks }, (_, index) =>
      packets.subarray(index * this.strideBytes + headerBytes, (index + 1) * this.strideBytes),
    );
    return { packets, payloads };
  }
}
