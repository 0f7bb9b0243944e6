/**
 * Size of the content of a zstd frame, where its header tells it (RFC 8878, 3.1.1.1). There may be more frames behind it: it is the least that
 * comes out.
 */
export function zstdContentBytes(start: Buffer): number | undefined {
  const descriptor = start[4];
  if (descriptor === undefined) return undefined;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const sizeFlag = descriptor >> 6;
  const at = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes;
  const bytes = sizeFlag === 0 ? (isSingleSegment ? 1 : 0) : 1 << sizeFlag;
  if (bytes === 0 || start.length < at + bytes) return undefined;
  if (bytes === 8) return Number(start.readBigUInt64LE(at));
  return start.readUIntLE(at, bytes) + (bytes === 2 ? 256 : 0);
}
