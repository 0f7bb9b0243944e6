/** Checksums of what was last written to a medium. */
export interface BlockChecksums {
  /** Bytes of a block; the last one may be shorter. */
  readonly blockBytes: number;
  /** CRC-32 by the number of the block; 0 where nothing is known. */
  readonly checksums: Uint32Array;
}

/**
 * Remembers what was last written to which medium. It only says where looking is worth it: no block counts as unchanged before it was read
 * back and compared byte for byte.
 */
export interface WrittenBlocks {
  /** @param medium what identifies it. @returns undefined when nothing is known */
  recall(medium: string): Promise<BlockChecksums | undefined>;
  /** Must have returned before the first byte is written. @throws the system's error */
  forget(medium: string): Promise<void>;
  remember(medium: string, blocks: BlockChecksums): Promise<void>;
}
