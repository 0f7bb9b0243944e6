import { crc32 } from "node:zlib";
import { AgentError } from "../../../agent/driver/errors.ts";

/** What is looked at as a whole: either raw or a fill, one chunk each, so that the header knows how many there will be. */
export const unitBytes = 64 * 1024;

const headerBytes = 28;
const chunkHeaderBytes = 12;
const chunkTypes = { raw: 0xcac1, fill: 0xcac2, crc32: 0xcac4 } as const;

/**
 * An image as Android sparse image (sparse_format.h of Android's libsparse), made while it is read: what repeats four bytes becomes a fill. Zeros
 * are no holes: on another medium they are written. Its checksum is its last chunk.
 * @param pieces of multiples of {@link unitBytes}, but for the last one
 * @throws AgentError E_INVALID for an image that is no whole number of sectors, or too large; E_IO when it has another length
 */
export async function* asAndroidSparse(
  pieces: AsyncIterable<Buffer>,
  imageBytes: number,
): AsyncGenerator<Buffer, void, undefined> {
  const blockBytes = imageBytes % 4096 === 0 ? 4096 : 512;
  const blocks = imageBytes / blockBytes;
  if (!Number.isInteger(blocks) || blocks > 0xffffffff) {
    throw new AgentError("E_INVALID", `${imageBytes} bytes do not fit an Android sparse image`);
  }
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(0xed26ff3a, 0);
  header.writeUInt16LE(1, 4);
  header.writeUInt16LE(headerBytes, 8);
  header.writeUInt16LE(chunkHeaderBytes, 10);
  header.writeUInt32LE(blockBytes, 12);
  header.writeUInt32LE(blocks, 16);
  header.writeUInt32LE(Math.ceil(imageBytes / unitBytes) + 1, 20);
  yield header;
  let bytes = 0;
  let checksum = 0;
  for await (const piece of pieces) {
    checksum = crc32(piece, checksum);
    bytes += piece.length;
    for (let start = 0; start < piece.length; start += unitBytes) {
      const unit = piece.subarray(start, start + unitBytes);
      const isFill = unit.subarray(4).equals(unit.subarray(0, -4));
      const data = isFill ? unit.subarray(0, 4) : unit;
      yield chunkHeader(isFill ? "fill" : "raw", unit.length / blockBytes, data.length);
      yield data;
    }
  }
  if (bytes !== imageBytes) throw new AgentError("E_IO", `${bytes} bytes were read, and not ${imageBytes}`);
  const end = Buffer.alloc(4);
  end.writeUInt32LE(checksum, 0);
  yield chunkHeader("crc32", 0, end.length);
  yield end;
}

function chunkHeader(type: keyof typeof chunkTypes, blocks: number, dataBytes: number): Buffer {
  const header = Buffer.alloc(chunkHeaderBytes);
  header.writeUInt16LE(chunkTypes[type], 0);
  header.writeUInt32LE(blocks, 4);
  header.writeUInt32LE(chunkHeaderBytes + dataBytes, 8);
  return header;
}
