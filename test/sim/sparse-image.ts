export interface SparseChunk {
  readonly type: number;
  readonly blocks: number;
  readonly data?: Buffer;
  /** What its header says, when that is not the truth. */
  readonly totalBytes?: number;
}

export const raw = (data: Buffer, blockBytes = 4096): SparseChunk => ({
  type: 0xcac1,
  blocks: data.length / blockBytes,
  data,
});
export const fill = (blocks: number, value: Buffer): SparseChunk => ({ type: 0xcac2, blocks, data: value });
export const hole = (blocks: number): SparseChunk => ({ type: 0xcac3, blocks });
export const checksum = (crc: number): SparseChunk => ({ type: 0xcac4, blocks: 0, data: word(crc) });

/** An Android sparse image of any chunks, also of those that no honest tool writes. */
export function sparseImage(
  chunks: readonly SparseChunk[],
  {
    blockBytes = 4096,
    magic = 0xed26ff3a,
    major = 1,
    headerBytes = 28,
    chunkHeaderBytes = 12,
    totalBlocks = chunks.reduce((sum, { blocks }) => sum + blocks, 0),
    totalChunks = chunks.length,
    imageChecksum = 0,
  } = {},
): Buffer {
  const header = Buffer.alloc(Math.max(headerBytes, 28));
  header.writeUInt32LE(magic, 0);
  header.writeUInt16LE(major, 4);
  header.writeUInt16LE(headerBytes, 8);
  header.writeUInt16LE(chunkHeaderBytes, 10);
  header.writeUInt32LE(blockBytes, 12);
  header.writeUInt32LE(totalBlocks, 16);
  header.writeUInt32LE(totalChunks, 20);
  header.writeUInt32LE(imageChecksum, 24);
  const parts = chunks.map(({ type, blocks, data = Buffer.alloc(0), totalBytes }) => {
    const head = Buffer.alloc(Math.max(chunkHeaderBytes, 12));
    head.writeUInt16LE(type, 0);
    head.writeUInt32LE(blocks, 4);
    head.writeUInt32LE(totalBytes ?? head.length + data.length, 8);
    return Buffer.concat([head, data]);
  });
  return Buffer.concat([header, ...parts]);
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
