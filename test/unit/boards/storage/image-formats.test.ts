// Block maps and Android sparse images, beside the programs that write and read them elsewhere.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { crc32, gzipSync } from "node:zlib";
import { bytesOf } from "../../../../agent/stream/byte-source.ts";
import { parseBmap } from "../../../../boards/storage/image/bmap.ts";
import { crc32OverZeros } from "../../../../boards/storage/image/crc32-zeros.ts";
import { openImage, type ImageOptions } from "../../../../boards/storage/image/open-image.ts";
import { zstdContentBytes } from "../../../../boards/storage/image/zstd-size.ts";
import { missingPrograms } from "../../../../scripts/programs.mjs";
import { scratch } from "../../../sim/agent.ts";
import { inPieces } from "../../../sim/block-writer.ts";
import { checksum, fill, hole, raw, sparseImage } from "../../../sim/sparse-image.ts";

const mebi = 2 ** 20;
const block = 4096;

function without(...programs: string[]): string | false {
  const missing = missingPrograms(programs);
  return missing.length > 0 && `not installed: ${missing.join(", ")}`;
}

/** A file of holes but for these bytes. */
function holeyFile(path: string, bytes: number, content: readonly (readonly [at: number, bytes: Buffer])[]): Buffer {
  const file = openSync(path, "w");
  for (const [position, data] of content) writeSync(file, data, 0, data.length, position);
  closeSync(file);
  truncateSync(path, bytes);
  return readFileSync(path);
}

/** What an image puts where, over a disk of 0xaa. */
async function unpacked(
  image: Buffer,
  options: ImageOptions = {},
): Promise<{ disk: Buffer; holes: boolean; format: string }> {
  const open = await openImage(bytesOf(inPieces(image)), options);
  const pieces: { at: number; bytes: Buffer }[] = [];
  let [end, holes] = [0, false];
  const memory = Buffer.alloc(100_001);
  for await (const extent of open.extents) {
    assert.ok(extent.at >= end, "extents come in ascending order");
    for (let { at } = extent, count; (count = await extent.read(memory)) > 0; at += count) {
      holes ||= at > end;
      end = at + count;
      pieces.push({ at, bytes: Buffer.from(memory.subarray(0, count)) });
    }
    assert.equal(await extent.read(memory), 0, "the end stays the end");
  }
  const disk = Buffer.alloc(open.bytes(), 0xaa);
  for (const { at, bytes } of pieces) bytes.copy(disk, at);
  assert.equal(open.givenBytes(), image.length);
  return { disk, holes: holes || end < open.bytes(), format: open.imageFormat };
}

const inHex = (bytes: Buffer, type = "sha256") => createHash(type).update(bytes).digest("hex");

/** A block map with its own checksum, as bmaptool writes it. */
function bmapOf({
  version = "2.0",
  imageBytes = 10 * block,
  blocks = Math.ceil(imageBytes / block),
  mapped = 3,
  type = "sha256",
  ranges = `<Range chksum="${"0".repeat(64)}"> 1-2 </Range><Range> 9 </Range>`,
  more = "",
} = {}): string {
  const isOld = version === "1.3";
  const name = isOld ? "BmapFileSHA1" : "BmapFileChecksum";
  const zeros = "0".repeat(isOld ? 40 : inHex(Buffer.alloc(0), type).length);
  const text = `<?xml version="1.0" ?>\n<!-- a map -->\n<bmap version="${version}">
  <ImageSize> ${imageBytes} </ImageSize><BlockSize> ${block} </BlockSize><BlocksCount> ${blocks} </BlocksCount>
  <MappedBlocksCount> ${mapped} </MappedBlocksCount>
  ${isOld ? "" : `<ChecksumType> ${type} </ChecksumType>`}<${name}> ${zeros} </${name}>${more}
  <BlockMap>${ranges}</BlockMap></bmap>\n`;
  return text.replace(`> ${zeros} </${name}`, `> ${inHex(Buffer.from(text), isOld ? "sha1" : type)} </${name}`);
}

test("what bmaptool writes is read: sizes, ranges and the checksum of each", { skip: without("bmaptool") }, (t) => {
  const folder = scratch(t);
  const path = join(folder, "image");
  const image = holeyFile(path, 20 * mebi + 1000, [
    [0, randomBytes(10_000)],
    [5 * mebi, randomBytes(3 * mebi)],
    [20 * mebi, randomBytes(1000)],
  ]);
  execFileSync("bmaptool", ["create", "-o", `${path}.bmap`, path], { stdio: "pipe" });
  const bmap = parseBmap(readFileSync(`${path}.bmap`));
  assert.deepEqual(
    [bmap.version, bmap.imageBytes, bmap.blockBytes, bmap.checksumType],
    ["2.0", image.length, 4096, "sha256"],
  );
  const covered = bmap.ranges.some(({ start, end }) => start <= 5 * mebi && end >= 8 * mebi);
  assert.ok(covered && bmap.ranges.at(-1)?.end === image.length);
  for (const { start, end, checksum: promised } of bmap.ranges) {
    assert.equal(promised, inHex(image.subarray(start, end)));
  }
});

test("block maps of all versions", () => {
  const ranges = [
    { start: block, end: 3 * block, checksum: "0".repeat(64) },
    { start: 9 * block, end: 10 * block, checksum: undefined },
  ];
  for (const version of ["2.0", "1.4"]) assert.deepEqual(parseBmap(Buffer.from(bmapOf({ version }))).ranges, ranges);
  const sha1 = "ab".repeat(20);
  const old = parseBmap(Buffer.from(bmapOf({ version: "1.3", ranges: `<Range sha1="${sha1}">0-2</Range>` })));
  assert.deepEqual(old.ranges, [{ start: 0, end: 3 * block, checksum: sha1 }]);
  const unchecked = bmapOf({ version: "1.2", ranges: "<Range> 0-1 </Range>\n<Range> 4 </Range>" });
  assert.equal(parseBmap(Buffer.from(unchecked)).checksumType, undefined);
  const strong = bmapOf({ type: "sha512", ranges: `<Range chksum="${"1".repeat(128)}">0-2</Range>` });
  assert.equal(parseBmap(Buffer.from(strong)).checksumType, "sha512");
});

const garbled: readonly (readonly [what: string, text: string | Buffer, message: RegExp])[] = [
  ["nothing", "", /there is no element/],
  ["no XML", "PK\u0003\u0004", /line 1: there is text around/],
  ["another document", "<html></html>", /it has no version/],
  ["an unknown version", bmapOf({ version: "3.0" }), /version 3.0 is not supported/],
  ["a document type", `<!DOCTYPE x [<!ENTITY a "b">]>${bmapOf()}`, /line 1: this is not XML/],
  ["an entity", bmapOf({ more: "<X>&a;</X>" }), /there is no entity &a;/],
  ["elements that overlap", "<bmap version='2.0'><a><b></a></b></bmap>", /<\/a> ends nothing/],
  ["no end", bmapOf().replace("</bmap>", ""), /<bmap> does not end/],
  ["too deep", "<a>".repeat(100), /nested too deeply/],
  ["a comment of megabytes that does not end", `<!--${" ".repeat(15 * mebi)}`, /this is not XML/],
  ["an element of a million attributes", `<a ${'b="" '.repeat(2 * mebi)}>`, /^/],
  ["a larger file", " ".repeat(17 * mebi), /larger than 16777216 bytes/],
  ["an attribute twice", "<bmap version='2.0' version='1.0'/>", /version twice/],
  ["no UTF-8", Buffer.from([0x3c, 0xff]), /it is not UTF-8/],
  ["two sizes", bmapOf({ more: "<ImageSize>1</ImageSize>" }), /more than one ImageSize/],
  ["a size that is no number", bmapOf().replace(` ${10 * block} `, " 0x10 "), /does not match its own checksum/],
  ["a count of blocks that is not that of the size", bmapOf({ blocks: 11 }), /11 blocks of 4096 bytes are not/],
  ["a count of mapped blocks that is not that of the ranges", bmapOf({ mapped: 4 }), /maps 3 blocks, and says 4/],
  ["an unknown checksum", bmapOf().replace(" sha256 ", " md5 "), /of the type “md5”/],
  ["ranges backwards", bmapOf({ ranges: "<Range>3-2</Range>" }), /“3-2” is no range/],
  ["a range that is none", bmapOf({ ranges: "<Range>all</Range>" }), /“all” is no range/],
  ["ranges that overlap", bmapOf({ ranges: "<Range>1-2</Range><Range>2</Range>" }), /2 is not behind/],
  ["a range behind the end", bmapOf({ ranges: "<Range>8-10</Range>" }), /8-10 is behind the end/],
  ["a short checksum", bmapOf({ ranges: "<Range chksum='ab'>0-2</Range>" }), /checksum of the range 0-2/],
];
for (const [what, text, message] of garbled) {
  test(`no block map: ${what}`, () => {
    assert.throws(
      () => parseBmap(Buffer.from(text)),
      (error: Error & { code: string }) => {
        assert.match(error.message, message);
        return ["E_INVALID", "E_DIGEST"].includes(error.code);
      },
    );
  });
}

test("any changed byte of a block map is found by its own checksum, or is refused", () => {
  const text = Buffer.from(bmapOf());
  for (let index = 0; index < text.length; index += 1) {
    const changed = Buffer.from(text);
    changed[index] = (changed[index] ?? 0) ^ 1;
    // The checksum as text may be upper or lower case; a changed bit makes it another number.
    assert.throws(() => parseBmap(changed), { code: /^E_(INVALID|DIGEST)$/ }, `byte ${index}`);
  }
});

test("an image with its block map: only its ranges, each compared", { skip: without("bmaptool") }, async (t) => {
  const path = join(scratch(t), "image");
  const image = holeyFile(path, 12 * mebi + 100, [
    [4096, randomBytes(4096)],
    [3 * mebi, randomBytes(5 * mebi)],
  ]);
  execFileSync("bmaptool", ["create", "-o", `${path}.bmap`, path], { stdio: "pipe" });
  const bmap = parseBmap(readFileSync(`${path}.bmap`));
  const { disk, holes } = await unpacked(image, { bmap });
  assert.ok(holes, "what is not mapped is left out");
  for (const { start, end } of bmap.ranges) assert.ok(disk.subarray(start, end).equals(image.subarray(start, end)));
  const [last] = bmap.ranges.slice(-1);
  const flipped = Buffer.from(image);
  const position = 7 * mebi;
  flipped[position] = (flipped[position] ?? 0) ^ 1;
  const range = bmap.ranges.find(({ start, end }) => start <= position && position < end) ?? last;
  await assert.rejects(unpacked(flipped, { bmap }), {
    code: "E_DIGEST",
    message: `the image is not what its block map promises: bytes ${range?.start} to ${(range?.end ?? 0) - 1} differ`,
  });
  await assert.rejects(unpacked(image.subarray(0, 6 * mebi), { bmap }), { code: "E_DIGEST", message: /lacks what/ });
  await assert.rejects(unpacked(image.subarray(0, -1), { bmap }), { code: "E_INVALID", message: /of another image/ });
});

test("what img2simg writes is read as simg2img reads it", { skip: without("img2simg", "simg2img") }, async (t) => {
  const folder = scratch(t);
  const path = join(folder, "image");
  for (const blockBytes of [4096, 65_536]) {
    const image = holeyFile(path, 8 * mebi, [
      [0, randomBytes(300_000)],
      [3 * mebi, Buffer.alloc(mebi, "abcd")],
      [6 * mebi, randomBytes(4096)],
    ]);
    execFileSync("img2simg", [path, `${path}.simg`, String(blockBytes)], { stdio: "pipe" });
    const sparse = readFileSync(`${path}.simg`);
    const { disk, format } = await unpacked(sparse);
    assert.equal(format, "android-sparse");
    assert.ok(sparse.length < image.length / 2 && disk.length === image.length);
    execFileSync("simg2img", [`${path}.simg`, `${path}.raw`]);
    assert.ok(readFileSync(`${path}.raw`).equals(image));
    // Zeros may be holes; everything else must be there.
    for (let at = 0; at < image.length; at += blockBytes) {
      const expected = image.subarray(at, at + blockBytes);
      if (!expected.equals(Buffer.alloc(blockBytes))) assert.ok(disk.subarray(at, at + blockBytes).equals(expected));
    }
  }
});

test("all chunks of Android sparse images, with checksums over holes", { skip: without("simg2img") }, async (t) => {
  const data = randomBytes(3 * block);
  const content = Buffer.concat([data, Buffer.alloc(300 * block, "wxyz"), Buffer.alloc(1000 * block)]);
  const image = sparseImage(
    [raw(data), fill(300, Buffer.from("wxyz")), hole(1000), checksum(crc32(content)), raw(data)],
    { imageChecksum: crc32(Buffer.concat([content, data])), headerBytes: 32, chunkHeaderBytes: 16 },
  );
  const { disk, holes } = await unpacked(image);
  assert.ok(holes);
  const expected = Buffer.concat([content, data]).fill(0xaa, 303 * block, 1303 * block);
  assert.ok(disk.equals(expected));
  const path = join(scratch(t), "image");
  writeFileSync(path, image);
  execFileSync("simg2img", [path, `${path}.raw`]);
  assert.ok(readFileSync(`${path}.raw`).equals(Buffer.concat([content, data])), "simg2img agrees");
});

test("a checksum goes on over zeros as over zeros that are there", () => {
  for (const bytes of [0, 1, 2, 4095, 4096, mebi + 3]) {
    for (const before of ["", "x", "a longer text"]) {
      const expected = crc32(Buffer.concat([Buffer.from(before), Buffer.alloc(bytes)]));
      assert.equal(crc32OverZeros(crc32(before), bytes), expected);
    }
  }
});

const two = randomBytes(2 * block);
const damagedImages: readonly (readonly [what: string, image: Buffer, code: string, message: RegExp])[] = [
  ["cut in its header", sparseImage([raw(two)]).subarray(0, 20), "E_ENCODING", /cut off in its header/],
  ["version 2", sparseImage([raw(two)], { major: 2 }), "E_ENCODING", /version 2.0/],
  ["a short header", sparseImage([raw(two)], { headerBytes: 12 }), "E_ENCODING", /header of 12 bytes/],
  ["short chunk headers", sparseImage([raw(two)], { chunkHeaderBytes: 8 }), "E_ENCODING", /chunk headers of 8/],
  ["blocks of 0 bytes", sparseImage([raw(two)], { blockBytes: 0 }), "E_ENCODING", /blocks of 0 bytes/],
  ["blocks of 6 bytes", sparseImage([raw(two)], { blockBytes: 6 }), "E_ENCODING", /blocks of 6 bytes/],
  ["an unknown chunk", sparseImage([{ type: 0xcac9, blocks: 1 }]), "E_ENCODING", /chunk of the type/],
  ["a chunk too short", sparseImage([{ ...raw(two), totalBytes: 20 }]), "E_ENCODING", /raw chunk of 8 bytes/],
  ["a hole with data", sparseImage([{ ...hole(2), data: two }]), "E_ENCODING", /hole chunk of 8192 bytes/],
  ["fewer chunks", sparseImage([raw(two)], { totalChunks: 2 }), "E_ENCODING", /is cut off: 12 bytes/],
  ["cut in a chunk", sparseImage([raw(two)]).subarray(0, -1), "E_ENCODING", /is cut off: 1 bytes/],
  ["more blocks than it says", sparseImage([raw(two)], { totalBlocks: 1 }), "E_ENCODING", /longer than the 4096/],
  ["fewer blocks than it says", sparseImage([raw(two)], { totalBlocks: 3 }), "E_ENCODING", /has 8192 bytes, and says/],
  ["more behind it", Buffer.concat([sparseImage([raw(two)]), two]), "E_ENCODING", /more behind its last chunk/],
  ["a wrong checksum", sparseImage([raw(two), checksum(1)]), "E_DIGEST", /own checksum/],
  ["a wrong checksum of all", sparseImage([raw(two)], { imageChecksum: 1 }), "E_DIGEST", /own checksum/],
];
for (const [what, image, code, message] of damagedImages) {
  test(`a damaged Android sparse image: ${what}`, async () => {
    await assert.rejects(unpacked(image), { code, message });
  });
}

test("byte for byte means that nothing is looked at", async () => {
  const image = sparseImage([raw(two)]);
  const { disk, format } = await unpacked(image, { format: "raw" });
  assert.ok(disk.equals(image) && format === "raw");
});

test("what is behind a gzip member: zeros belong to what was given, anything else is refused", async () => {
  const content = randomBytes(100_000);
  const padded = Buffer.concat([gzipSync(content), Buffer.alloc(3 * mebi)]);
  const given = createHash("sha256");
  const image = await openImage(bytesOf(inPieces(padded)), { onGiven: async (bytes) => void given.update(bytes) });
  const memory = Buffer.alloc(30_000);
  let bytes = 0;
  for await (const extent of image.extents) {
    for (let count; (count = await extent.read(memory)) > 0;) bytes += count;
  }
  assert.deepEqual([bytes, image.givenBytes(), given.digest("hex")], [content.length, padded.length, inHex(padded)]);
  padded.fill(5, gzipSync(content).length);
  await assert.rejects(unpacked(padded), { code: "E_ENCODING", message: "gzip: incorrect header check" });
});

test("the size in the header of a zstd frame is that of its content", { skip: without("zstd") }, (t) => {
  const path = join(scratch(t), "file");
  for (const bytes of [0, 1, 255, 256, 65_791, 65_792, 3 * mebi]) {
    writeFileSync(path, Buffer.alloc(bytes, "some text "));
    assert.equal(zstdContentBytes(execFileSync("zstd", ["-c", path], { maxBuffer: 64 * mebi })), bytes);
  }
  const streamed = execFileSync("zstd", ["-c"], { input: Buffer.alloc(100_000) });
  assert.equal(zstdContentBytes(streamed), undefined);
});
