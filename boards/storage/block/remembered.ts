import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { isSystemError, toAgentError } from "../../../agent/driver/errors.ts";
import type { Logger } from "../../../agent/driver/log.ts";
import { makeDirectoryDurably, syncDirectory, writeDurably } from "../../../agent/stream/durable.ts";

/** Checksums of what was last written to a medium. */
export interface BlockChecksums {
  /** Bytes of a block; the last one may be shorter. */
  readonly blockBytes: number;
  /** CRC-32 of what the image has in a block, by the block's number; 0 where nothing is known. */
  readonly checksums: Uint32Array;
}

/**
 * Remembers what was last written to which medium. It only says where looking is worth it: no block counts as unchanged before it was read
 * back and compared byte for byte, so a wrong memory costs time and nothing else. Nothing here rejects.
 */
export interface WrittenBlocks {
  /** @param medium what identifies it. @returns undefined when nothing is known */
  recall(medium: string): Promise<BlockChecksums | undefined>;
  /** When it has resolved, the medium may be written: a power cut from then on leaves no memory of what was there. */
  forget(medium: string): Promise<void>;
  remember(medium: string, blocks: BlockChecksums): Promise<void>;
}

/** Of the largest medium that is remembered: 16 TiB in blocks of 1 MiB. */
const maxBlocks = 2 ** 24;

const memoryFile = z.strictObject({
  format: z.literal("jumpstarter-agent/written-blocks/v1"),
  medium: z.string(),
  blockBytes: z.int().positive(),
  /** Four bytes each, little endian. */
  checksums: z.base64(),
});

/** Keeps a file for each medium: about 6 bytes for each MiB of it. */
export function writtenBlocksIn(directory: string, log: Logger): WrittenBlocks {
  const pathOf = (medium: string): string =>
    join(directory, `${createHash("sha256").update(medium).digest("hex").slice(0, 32)}.json`);
  const attempt = async <T>(work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      if (isSystemError(error) && error.code === "ENOENT") return undefined;
      log.warn(`${directory} does not remember what is on media: ${toAgentError(error).message}`);
      return undefined;
    }
  };
  return {
    recall: (medium) =>
      attempt(async () => {
        const file = memoryFile.parse(JSON.parse(await readFile(pathOf(medium), "utf8")));
        if (file.medium !== medium) return undefined;
        // Into memory of its own, as numbers must begin at a multiple of four.
        const bytes = Uint8Array.from(Buffer.from(file.checksums, "base64"));
        return { blockBytes: file.blockBytes, checksums: new Uint32Array(bytes.buffer, 0, bytes.length >> 2) };
      }),
    async forget(medium) {
      await attempt(async () => {
        await rm(pathOf(medium));
        await syncDirectory(directory);
      });
    },
    async remember(medium, { blockBytes, checksums }) {
      if (checksums.length > maxBlocks) return;
      const bytes = Buffer.from(checksums.buffer, checksums.byteOffset, checksums.byteLength);
      await attempt(async () => {
        await makeDirectoryDurably(directory);
        const file = { format: memoryFile.shape.format.value, medium, blockBytes, checksums: bytes.toString("base64") };
        await writeDurably(pathOf(medium), JSON.stringify(file));
      });
    },
  };
}
