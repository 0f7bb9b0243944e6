import { crc32 } from "node:zlib";
import { AgentError } from "../../../agent/driver/errors.ts";
import { readFully, type ByteSource } from "../../../agent/stream/byte-source.ts";
import { crc32OverZeros } from "./crc32-zeros.ts";
import type { Extent } from "./extent.ts";

/** See sparse_format.h of Android's libsparse. */
const magic = 0xed26ff3a;
export const sparseHeaderBytes = 28;
const chunkHeaderBytes = 12;
const chunks = { 0xcac1: "raw", 0xcac2: "fill", 0xcac3: "hole", 0xcac4: "crc32" } as const;
const maxHeaderBytes = 4096;
const maxBlockBytes = 64 * 1024 * 1024;

export interface SparseHeader {
  readonly headerBytes: number;
  readonly chunkHeaderBytes: number;
  readonly blockBytes: number;
  readonly chunks: number;
  readonly imageBytes: number;
  /** CRC-32 of the image with zeros in its holes; 0 for none. */
  readonly checksum: number;
}

/** The header with which an Android sparse image begins; undefined for everything else. @throws AgentError E_ENCODING */
export function sparseHeader(start: Buffer): SparseHeader | undefined {
  if (start.length < 4 || start.readUInt32LE(0) !== magic) return undefined;
  if (start.length < sparseHeaderBytes) throw damaged("is cut off in its header");
  const major = start.readUInt16LE(4);
  if (major !== 1) throw damaged(`has version ${major}.${start.readUInt16LE(6)}, and only 1.x is known`);
  const header = {
    headerBytes: start.readUInt16LE(8),
    chunkHeaderBytes: start.readUInt16LE(10),
    blockBytes: start.readUInt32LE(12),
    chunks: start.readUInt32LE(20),
    imageBytes: start.readUInt32LE(16) * start.readUInt32LE(12),
    checksum: start.readUInt32LE(24),
  };
  const { headerBytes, chunkHeaderBytes: chunkBytes, blockBytes } = header;
  if (headerBytes < sparseHeaderBytes || headerBytes > maxHeaderBytes)
    throw damaged(`has a header of ${headerBytes} bytes`);
  if (chunkBytes < chunkHeaderBytes || chunkBytes > maxHeaderBytes)
    throw damaged(`has chunk headers of ${chunkBytes} bytes`);
  if (blockBytes === 0 || blockBytes % 4 !== 0 || blockBytes > maxBlockBytes)
    throw damaged(`has blocks of ${blockBytes} bytes`);
  if (!Number.isSafeInteger(header.imageBytes)) throw damaged("is larger than any disk");
  return header;
}

/**
 * What an Android sparse image puts where; what is left out are its holes.
 * @param bytes from its header on
 * @throws AgentError E_ENCODING for what is damaged or cut off, E_DIGEST for a wrong checksum
 */
export async function* sparseExtents(bytes: ByteSource, header: SparseHeader): AsyncGenerator<Extent, void, undefined> {
  const field = async (length: number): Promise<Buffer> => {
    const memory = Buffer.alloc(length);
    const count = await readFully(bytes, memory);
    if (count < length) throw cutOff(length - count);
    return memory;
  };
  await field(header.headerBytes);
  let at = 0;
  let checksum = 0;
  /** @param next puts the next bytes into memory, some at least */
  const extent = (size: number, next: (memory: Buffer, done: number) => Promise<number> | number): Extent => {
    const start = at;
    return {
      at: start,
      async read(memory) {
        const part = memory.subarray(0, start + size - at);
        const count = part.length === 0 ? 0 : await next(part, at - start);
        checksum = crc32(part.subarray(0, count), checksum);
        at += count;
        return count;
      },
    };
  };
  for (let index = 0; index < header.chunks; index += 1) {
    const chunk = await field(header.chunkHeaderBytes);
    const type = chunks[chunk.readUInt16LE(0) as keyof typeof chunks] as
      (typeof chunks)[keyof typeof chunks] | undefined;
    const size = chunk.readUInt32LE(4) * header.blockBytes;
    const dataBytes = chunk.readUInt32LE(8) - header.chunkHeaderBytes;
    if (type === undefined)
      throw damaged(`has a chunk of the type 0x${chunk.toString("hex", 0, 2)} at number ${index}`);
    if (dataBytes !== { raw: size, fill: 4, hole: 0, crc32: 4 }[type]) {
      throw damaged(`has a ${type} chunk of ${dataBytes} bytes at number ${index}`);
    }
    if (type !== "crc32" && at + size > header.imageBytes)
      throw damaged(`is longer than the ${header.imageBytes} bytes it says`);
    switch (type) {
      case "raw":
        yield extent(size, async (memory, done) => {
          const count = await bytes.read(memory);
          if (count === 0) throw cutOff(size - done);
          return count;
        });
        break;
      case "fill": {
        const value = await field(4);
        yield extent(size, (memory, done) => {
          // It goes on where the last read has ended.
          memory.fill(Buffer.concat([value, value]).subarray(done % 4, (done % 4) + 4));
          return memory.length;
        });
        break;
      }
      case "hole":
        at += size;
        checksum = crc32OverZeros(checksum, size);
        break;
      case "crc32":
        compare((await field(4)).readUInt32LE(0), checksum);
    }
  }
  if (at !== header.imageBytes) throw damaged(`has ${at} bytes, and says ${header.imageBytes}`);
  if (header.checksum !== 0) compare(header.checksum, checksum);
  if ((await bytes.read(Buffer.alloc(1))) > 0) throw damaged("has more behind its last chunk");
}

function compare(promised: number, actual: number): void {
  if (promised === actual) return;
  throw new AgentError("E_DIGEST", "the Android sparse image does not match its own checksum");
}

function cutOff(missing: number): AgentError {
  return damaged(`is cut off: ${missing} bytes of one part are missing`);
}

function damaged(how: string): AgentError {
  return new AgentError("E_ENCODING", `the Android sparse image ${how}`);
}
