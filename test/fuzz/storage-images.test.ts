// Block maps and images from anywhere: they are read, or refused with a code.
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { AgentError } from "../../agent/driver/errors.ts";
import { parseBmap, type Bmap } from "../../boards/storage/image/bmap.ts";
import { bytesOf } from "../../agent/stream/byte-source.ts";
import { openImage, type ImageOptions } from "../../boards/storage/image/open-image.ts";
import { checksum, fill, hole, raw, sparseImage, type SparseChunk } from "../sim/sparse-image.ts";

const runs = { numRuns: 2000 };

/** Anything but an AgentError is a bug. */
function coded(error: unknown): undefined {
  assert.ok(error instanceof AgentError, `not a coded error: ${String(error)}`);
  return undefined;
}

function readIfValid(text: string | Uint8Array): Bmap | undefined {
  try {
    return parseBmap(typeof text === "string" ? Buffer.from(text) : text);
  } catch (error) {
    return coded(error);
  }
}

interface Unpacked {
  readonly pieces: { readonly at: number; readonly bytes: Buffer }[];
  readonly bytes: number;
}

/** @param cuts where the stream is cut into pieces */
async function unpackIfValid(
  image: Buffer,
  options: ImageOptions,
  cuts: readonly number[],
): Promise<Unpacked | undefined> {
  const edges = [0, ...cuts.map((cut) => cut % (image.length + 1)).sort((a, b) => a - b), image.length];
  const stream = async function* () {
    for (const [index, end] of edges.entries()) {
      const piece = image.subarray(edges[index - 1] ?? 0, end);
      if (piece.length > 0) yield piece;
    }
  };
  try {
    const open = await openImage(bytesOf(stream()), options);
    const pieces: Unpacked["pieces"] = [];
    const memory = Buffer.alloc(1024 * 1024);
    for await (const extent of open.extents) {
      for (let at = extent.at, count; (count = await extent.read(memory)) > 0; at += count) {
        pieces.push({ at, bytes: Buffer.from(memory.subarray(0, count)) });
        // A word may stand for gigabytes of repeated values: enough is seen.
        if (pieces.length > 64) return undefined;
      }
    }
    return { pieces, bytes: open.bytes() };
  } catch (error) {
    return coded(error);
  }
}

const word = fc.oneof(
  fc.constantFrom("ImageSize", "BlockSize", "BlocksCount", "MappedBlocksCount", "BlockMap", "Range", "bmap", "a:b"),
  fc.string({ maxLength: 8 }),
);
const markup = fc
  .array(
    fc.oneof(
      word.map((name) => `<${name}>`),
      word.map((name) => `</${name}>`),
      word.map((name) => `<${name} version="2.0" chksum='1'/>`),
      fc.constantFrom("<!--", "-->", "<?xml", "?>", "<!DOCTYPE x>", "&lt;", "&#1;", "&", "<", "]]>", " 0-1 "),
      fc.string({ unit: "binary", maxLength: 10 }),
    ),
    { maxLength: 30 },
  )
  .map((parts) => parts.join(""));

test("whatever claims to be a block map is read or refused", () => {
  fc.assert(
    fc.property(fc.oneof(markup, fc.uint8Array({ maxLength: 200 })), (text) => {
      readIfValid(text);
    }),
    runs,
  );
});

const number = fc.oneof(fc.nat(100), fc.maxSafeNat(), fc.constantFrom("-1", "1e9", "0x1", "", "９", "1".repeat(30)));

test("the ranges of a block map that is read are in order, apart, and within the image", () => {
  const map = fc.record({
    version: fc.constantFrom("1.0", "1.2", "2.0"),
    image: fc.oneof(fc.nat(100_000), number),
    block: fc.oneof({ weight: 5, arbitrary: fc.constantFrom(1, 512, 4096) }, number),
    blocks: fc.option(number, { freq: 1 }),
    ranges: fc.array(fc.tuple(fc.nat(30), fc.option(fc.nat(30))), { maxLength: 3 }),
  });
  let read = 0;
  fc.assert(
    fc.property(map, ({ version, image, block, blocks, ranges }) => {
      const mapped = ranges.reduce((sum, [first, last]) => sum + (last ?? first) - first + 1, 0);
      const bmap =
        readIfValid(`<bmap version="${version}"><ImageSize>${image}</ImageSize><BlockSize>${block}</BlockSize>
        <BlocksCount>${blocks ?? Math.ceil(Number(image) / Number(block))}</BlocksCount><MappedBlocksCount>${mapped}</MappedBlocksCount>
        <BlockMap>${ranges.map(([first, last]) => `<Range>${first}${last === null ? "" : `-${last}`}</Range>`).join("\n")}</BlockMap></bmap>`);
      if (bmap === undefined) return;
      read += 1;
      let before = 0;
      for (const { start, end } of bmap.ranges) {
        assert.ok(start >= before && end > start && end <= bmap.imageBytes);
        before = end;
      }
    }),
    runs,
  );
  assert.ok(read > 20, `only ${read} were read`);
});

const block = 64;
const bytes = (count: number) => fc.uint8Array({ minLength: count, maxLength: count }).map((data) => Buffer.from(data));
const chunk: fc.Arbitrary<SparseChunk> = fc.oneof(
  fc.integer({ min: 1, max: 5 }).chain((blocks) => bytes(blocks * block).map((data) => raw(data, block))),
  fc.tuple(fc.integer({ min: 1, max: 50 }), bytes(4)).map(([blocks, value]) => fill(blocks, value)),
  fc.integer({ min: 1, max: 50 }).map(hole),
);
const cuts = fc.array(fc.nat(), { maxLength: 8 });

test("an Android sparse image is unpacked to what it was made of, wherever the stream is cut", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(chunk, { maxLength: 8 }), cuts, async (chunks, at) => {
      const content = Buffer.concat(
        chunks.map(({ type, blocks, data = Buffer.alloc(0) }) =>
          type === 0xcac1 ? data : Buffer.alloc(blocks * block, type === 0xcac2 ? data : 0),
        ),
      );
      const image = sparseImage([...chunks, checksum(crc32(content))], { blockBytes: block });
      const unpacked = await unpackIfValid(image, {}, at);
      assert.ok(unpacked !== undefined && unpacked.bytes === content.length);
      const disk = Buffer.alloc(content.length);
      for (const piece of unpacked.pieces) piece.bytes.copy(disk, piece.at);
      assert.ok(disk.equals(content));
    }),
    { numRuns: 500 },
  );
});

test("a damaged Android sparse image is unpacked within its size, or refused", async () => {
  const damage = fc.array(fc.tuple(fc.nat(), fc.oneof(fc.nat(255), fc.constantFrom(0, 255))), { maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(chunk, { maxLength: 6 }),
      damage,
      fc.option(fc.nat()),
      cuts,
      async (chunks, changes, cut, at) => {
        const image = sparseImage(chunks, { blockBytes: block });
        // Not its magic: it would be a raw image.
        for (const [position, value] of changes) image[4 + (position % (image.length - 4))] = value;
        const unpacked = await unpackIfValid(cut === null ? image : image.subarray(0, cut % image.length), {}, at);
        if (unpacked === undefined) return;
        let before = 0;
        for (const piece of unpacked.pieces) {
          assert.ok(piece.at >= before);
          before = piece.at + piece.bytes.length;
        }
        assert.ok(before <= unpacked.bytes);
      },
    ),
    runs,
  );
});

test("any bytes are an image, or refused", async () => {
  const magic = fc.constantFrom("", "3aff26ed01000000", "1f8b08", "fd377a585a00", "425a68", "28b52ffd");
  await fc.assert(
    fc.asyncProperty(magic, fc.uint8Array({ maxLength: 100 }), async (start, rest) => {
      const image = Buffer.concat([Buffer.from(start, "hex"), rest]);
      const unpacked = await unpackIfValid(image, {}, []);
      if (start === "") assert.equal(unpacked?.bytes, image.length);
    }),
    { numRuns: 300 },
  );
});
