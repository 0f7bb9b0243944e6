import type { ByteRange } from "../../../agent/driver/receipt.ts";
import type { Part } from "./digests.ts";

/** The parts of a disk that are told apart: when they differ, and when they are unchanged. */
export const cellBytes = 1024 * 1024;
/** Of one read or write; erase blocks of cards are not larger as a rule. */
export const windowBytes = 4 * cellBytes;

/** What an image has in one cell. */
export interface Cell {
  /** Positions on the disk, in ascending order, apart from each other. */
  readonly parts: readonly ByteRange[];
  /** CRC-32 of the parts, one after the other; 0 where nothing is to be remembered. */
  readonly checksum: number;
  /** SHA-256 of all that was written up to the end of this cell, in hex. */
  readonly writtenUntil: string;
  /** It was on the disk already: read back and compared byte for byte. */
  readonly isUnchanged: boolean;
}

/** Where a cell begins, and ends. */
export function boundsOf({ parts }: Pick<Cell, "parts">): ByteRange {
  return { start: parts[0]?.start ?? 0, end: parts.at(-1)?.end ?? 0 };
}

/** The parts of each cell; none is in two of them. */
export function byCells(parts: readonly Part[]): Part[][] {
  const cells = new Map<number, Part[]>();
  for (const part of parts) {
    for (let start = part.start; start < part.end;) {
      const number = Math.floor(start / cellBytes);
      const end = Math.min((number + 1) * cellBytes, part.end);
      const cell = cells.get(number);
      if (cell === undefined) cells.set(number, [{ start, end }]);
      else cell.push({ start, end });
      start = end;
    }
  }
  return [...cells.values()];
}

/** Whole blocks that hold these parts, in ascending order; those that are at most `gapBytes` apart are one. */
export function blocksAround(parts: readonly Part[], blockBytes: number, gapBytes = 0): Part[] {
  const runs: { start: number; end: number }[] = [];
  for (const part of parts) {
    const start = part.start - (part.start % blockBytes);
    const end = Math.ceil(part.end / blockBytes) * blockBytes;
    const last = runs.at(-1);
    if (last !== undefined && start - last.end <= gapBytes) last.end = Math.max(last.end, end);
    else runs.push({ start, end });
  }
  return runs;
}

/** Ranges of the disk as people want to read them: what is side by side is one. */
export function rangesOf(cells: Iterable<Cell>): ByteRange[] {
  return [
    ...blocksAround(
      [...cells].flatMap(({ parts }) => parts),
      1,
    ),
  ];
}

export function bytesOf(cells: Iterable<Cell>): number {
  let bytes = 0;
  for (const { parts } of cells) for (const { start, end } of parts) bytes += end - start;
  return bytes;
}
