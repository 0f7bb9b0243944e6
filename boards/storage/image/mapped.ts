import { createHash, type Hash } from "node:crypto";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { Bmap, MappedRange } from "./bmap.ts";
import type { ImagePiece } from "./piece.ts";

/**
 * The parts of an image that its block map tells to write. A range that differs from its checksum is found when its last byte has come: what
 * was written of it until then does not count.
 * @throws AgentError E_DIGEST naming the range
 */
export async function* mappedPieces(
  pieces: AsyncIterable<ImagePiece>,
  bmap: Bmap,
): AsyncGenerator<ImagePiece, void, undefined> {
  const ranges = bmap.ranges.values();
  let range = ranges.next().value;
  let reached = range?.start ?? 0;
  let hash = hashOf(range, bmap);
  for await (const { at, bytes } of pieces) {
    const end = at + bytes.length;
    while (range !== undefined && range.start < end) {
      if (at > reached) throw missing(reached, at);
      const part = bytes.subarray(reached - at, range.end - at);
      hash?.update(part);
      yield { at: reached, bytes: part };
      reached += part.length;
      if (reached < range.end) break;
      compare(range, hash);
      range = ranges.next().value;
      reached = range?.start ?? 0;
      hash = hashOf(range, bmap);
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
