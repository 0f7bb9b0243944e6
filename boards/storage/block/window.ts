import { windowBytes, blocksAround } from "./cells.ts";
import type { Part } from "./digests.ts";
import type { OpenDisk } from "./disk.ts";

/** A stretch of the disk in memory, with what an image has in it. Its parts are positions within. */
export class Window {
  /** Shared with the digests, and aligned as the disk wants it. */
  readonly memory: Buffer;
  /** Where on the disk it is: a multiple of its size. */
  base = 0;
  /** In ascending order, apart from each other. */
  readonly parts: { start: number; end: number }[] = [];

  constructor(disk: OpenDisk) {
    this.memory = disk.calls.alignedBuffer(windowBytes, { shared: true });
  }

  get isFull(): boolean {
    return this.parts.at(-1)?.end === windowBytes;
  }

  moveTo(base: number): void {
    this.base = base;
    this.parts.length = 0;
  }

  /** Bytes of an image were put into the memory, behind those that were there. @param position within the window */
  add(position: number, count: number): void {
    const last = this.parts.at(-1);
    if (last?.end === position) last.end += count;
    else this.parts.push({ start: position, end: position + count });
  }

  /** Reads whole blocks around the parts. @returns how far each got: less only at the end of a file */
  async read(disk: OpenDisk, parts: readonly Part[], gapBytes = 0): Promise<Part[]> {
    const runs: Part[] = [];
    for (const { start, end } of blocksAround(parts, disk.blockBytes, gapBytes)) {
      const count = await disk.readAt(this.memory.subarray(start, end), this.base + start);
      runs.push({ start, end: start + count });
    }
    return runs;
  }

  /** Writes parts in whole blocks; around them stays what the disk holds. */
  async write(disk: OpenDisk, parts: readonly Part[]): Promise<void> {
    await this.#complete(disk, parts);
    for (const { start, end } of blocksAround(parts, disk.blockBytes)) {
      await disk.writeAt(this.memory.subarray(start, end), this.base + start);
    }
  }

  /** Fills the blocks that are an image's in part only with what the disk holds. */
  async #complete(disk: OpenDisk, parts: readonly Part[]): Promise<void> {
    const { blockBytes } = disk;
    const edges = parts.flatMap(({ start, end }) => [start, end]).filter((edge) => edge % blockBytes !== 0);
    for (const start of new Set(edges.map((edge) => edge - (edge % blockBytes)))) {
      const block = disk.calls.alignedBuffer(blockBytes);
      block.fill(0, await disk.readAt(block, this.base + start));
      for (const part of parts) {
        const [from, to] = [Math.max(part.start, start), Math.min(part.end, start + blockBytes)];
        if (from < to) this.memory.copy(block, from - start, from, to);
      }
      block.copy(this.memory, start);
    }
  }
}
