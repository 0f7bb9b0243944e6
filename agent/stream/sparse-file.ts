import type { FileHandle } from "node:fs/promises";
import { Writable } from "node:stream";
import { writeFully } from "./files.ts";

const blockBytes = 64 * 1024;
const zeros = Buffer.alloc(blockBytes);

/**
 * Takes a stream into an empty file and leaves holes where it is zero, so that the dump of a large medium takes no more room than what is on it.
 * The file is the caller's to sync and close.
 */
export function sparseFileSink(file: FileHandle): Writable {
  let at = 0;
  /** Where the last bytes that are not zero end. */
  let written = 0;
  const take = async (bytes: Buffer): Promise<void> => {
    for (let start = 0; start < bytes.length;) {
      const isHole = isZeroAt(bytes, start);
      let end = start;
      while (end < bytes.length && isZeroAt(bytes, end) === isHole) end += blockBytes;
      const run = bytes.subarray(start, end);
      if (!isHole) written = await writeFully(file, [run], at);
      at += run.length;
      start += run.length;
    }
  };
  return new Writable({
    highWaterMark: 1024 * 1024,
    write: (bytes: Buffer, _encoding, done) => void take(bytes).then(() => done(), done),
    final: (done) => void (written === at ? Promise.resolve() : file.truncate(at)).then(() => done(), done),
  });
}

function isZeroAt(bytes: Buffer, start: number): boolean {
  const block = bytes.subarray(start, start + blockBytes);
  return block.equals(block.length === blockBytes ? zeros : zeros.subarray(0, block.length));
}
