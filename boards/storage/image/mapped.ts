import { createHash, type Hash } from "node:crypto";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { Bmap, MappedRange } from "./bmap.ts";
import type { Extent } from "./extent.ts";

/** Of one read of what is left out. */
const skippedBytes = 1024 * 1024;

/**
 * The parts of an image that its block map tells to write. A range that differs from its checksum is found when its last byte has come: what
 * was written of it until then does not count.
 * @throws AgentError E_DIGEST naming the range
 */
export async function* mappedExtents(
  extents: AsyncIterable<Extent>,
  bmap: Bmap,
): AsyncGenerator<Extent, void, undefined> {
  const ranges = bmap.ranges.values();
  const skipped = Buffer.alloc(skippedBytes);
  let range = ranges.next().value;
  let hash = hashOf(range, bmap);
  /** Up to where the range has come. */
  let reached = range?.start ?? Infinity;
  for await (const extent of extents) {
    let at = extent.at;
    let isOver = false;
    const take = async (memory: Buffer): Promise<number> => {
      const count = await extent.read(memory);
      isOver = count === 0;
      at += count;
      return count;
    };
    while (!isOver) {
      if (at < reached) {
        await take(skipped.subarray(0, reached - at));
        continue;
      }
      if (range === undefined || at > reached) throw missing(reached, at);
      const { end } = range;
      yield {
        at,
        async read(memory) {
          const count = reached === end ? 0 : await take(memory.subarray(0, end - reached));
          hash?.update(memory.subarray(0, count));
          reached += count;
          return count;
        },
      };
      if (reached < end) break;
      compare(range, hash);
      range = ranges.next().value;
      hash = hashOf(range, bmap);
      reached = range?.start ?? Infinity;
    }
  }
  if (range !== undefined) throw missing(reached, range.end);
}

function hashOf(range: MappedRange | undefined, { checksumType }: Bmap): Hash | undefined {
  if (range?.checksum === undefined || checksumType === undefined) return undefined;
  return createHash(checksumType);
}

function compare({ start, end, checksum }: MappedRange, hash: Hash | undefined): void {
  if (hash === undefined || hash.digest("hex") === checksum) return;
  throw new AgentError(
    "E_DIGEST",
    `the image is not what its block map promises: bytes ${start} to ${end - 1} differ`,
    {
      hint: "the image or its .bmap file is damaged, or they do not belong together",
    },
  );
}

function missing(start: number, end: number): AgentError {
  return new AgentError("E_DIGEST", `the image lacks what its block map promises: bytes ${start} to ${end - 1}`, {
    hint: "the image is cut off, or this .bmap file is that of another one",
  });
}
