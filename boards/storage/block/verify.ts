import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { OpenDisk } from "./disk.ts";
import type { TransferContext } from "./write.ts";

/** The parts of an image that are told apart when they differ. */
export const rangeBytes = 1024 * 1024;
const chunkBytes = 4 * rangeBytes;

/** What was written, by its checksums. */
export interface Written {
  readonly bytes: number;
  readonly sha256: string;
  /** CRC-32 of each range; the last one may be shorter. */
  readonly checksums: readonly number[];
}

/**
 * Reads back what was written, from the medium and not from memory.
 * @throws AgentError E_DIGEST naming the first range that differs
 */
export async function compareWithMedium(disk: OpenDisk, written: Written, context: TransferContext): Promise<void> {
  const { signal, log, onProgress } = context;
  log.info(`reading back storage device ${disk.name}`);
  onProgress?.({ phase: "verify", bytes: 0, totalBytes: written.bytes });
  if (!disk.isDirect) await disk.calls.forget(disk.file.fd);
  const hash = createHash("sha256");
  let [reading, spare] = [disk.calls.alignedBuffer(chunkBytes), disk.calls.alignedBuffer(chunkBytes)];
  const read = (buffer: Buffer, position: number): Promise<Buffer> => {
    const bytes = Math.min(chunkBytes, written.bytes - position);
    const whole = buffer.subarray(0, Math.ceil(bytes / disk.blockBytes) * disk.blockBytes);
    const result = disk.readAt(whole, position).then((count) => buffer.subarray(0, Math.min(bytes, count)));
    // Awaited one round later.
    result.catch(() => {});
    return result;
  };
  let next = read(reading, 0);
  try {
    for (let position = 0; position < written.bytes; position += chunkBytes) {
      const chunk = await next;
      [reading, spare] = [spare, reading];
      if (position + chunkBytes < written.bytes) next = read(reading, position + chunkBytes);
      hash.update(chunk);
      const expected = Math.min(chunkBytes, written.bytes - position);
      for (let start = 0; start < expected; start += rangeBytes) {
        const checksum = crc32(chunk.subarray(start, start + rangeBytes));
        if (chunk.length < Math.min(start + rangeBytes, expected) || checksum !== rangeChecksum(position + start)) {
          const end = Math.min(position + start + rangeBytes, written.bytes);
          throw differs(disk, `bytes ${position + start} to ${end - 1}`);
        }
      }
      onProgress?.({ phase: "verify", bytes: position + expected, totalBytes: written.bytes });
      signal.throwIfAborted();
    }
  } finally {
    await next.catch(() => {});
  }
  if (hash.digest("hex") !== written.sha256) throw differs(disk, `bytes 0 to ${written.bytes - 1}`);

  function rangeChecksum(position: number): number | undefined {
    return written.checksums[position / rangeBytes];
  }
}

function differs(disk: OpenDisk, range: string): AgentError {
  return new AgentError("E_DIGEST", `${disk.name} holds other bytes than were written to it: ${range} differ`, {
    hint: "the medium or its reader is bad",
  });
}
