// Encoded and sparse images, block maps and unchanged blocks on real block devices (loop devices need root).
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  openSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { writtenBlocksIn } from "../../../../boards/storage/block/remembered.ts";
import { parseBmap } from "../../../../boards/storage/image/bmap.ts";
import { missingPrograms } from "../../../../scripts/programs.mjs";
import { scratch } from "../../../sim/agent.ts";
import { logs, openPaths, sha256, write } from "../../../sim/block-writer.ts";
import { loopDisk, missingLoops, smallFileSystem } from "../../../sim/loop.ts";
import { fill, hole, raw, sparseImage } from "../../../sim/sparse-image.ts";

const mebi = 2 ** 20;
const missing = missingPrograms(["xz", "bzip2", "zstd", "bmaptool"]);
const skip = missingLoops || (missing.length > 0 && `not installed: ${missing.join(", ")}`);

const piped = (program: string, input: Buffer, ...words: string[]) =>
  execFileSync(program, ["-c", ...words], { input, maxBuffer: 64 * mebi });

/** Half of it is worth compressing. */
function someImage(bytes: number): Buffer {
  return Buffer.concat([randomBytes(bytes / 2), Buffer.alloc(bytes / 2, "the same again ")]);
}

function setBytes(path: string, position: number, bytes: Buffer): void {
  const file = openSync(path, "r+");
  writeSync(file, bytes, 0, bytes.length, position);
  closeSync(file);
}

const encodings = {
  gzip: (image: Buffer) => gzipSync(image, { level: 1 }),
  xz: (image: Buffer) => piped("xz", image, "-0"),
  bz2: (image: Buffer) => piped("bzip2", image, "-1"),
  zstd: (image: Buffer) => piped("zstd", image, "-1"),
};
for (const [encoding, encode] of Object.entries(encodings)) {
  test(
    `an image in ${encoding} is known by its first bytes, decoded, verified, and both digests are told`,
    { skip },
    async (t) => {
      const image = someImage(9 * mebi);
      const { path, backing } = loopDisk(t, { content: randomBytes(16 * mebi) });
      const encoded = encode(image);
      const report = await write(path, encoded);
      assert.ok(readFileSync(backing).subarray(0, image.length).equals(image));
      assert.deepEqual(
        [report.encoding, report.imageFormat, report.given, report.bytes, report.mappedSha256, report.verified],
        [encoding, "raw", { bytes: encoded.length, sha256: sha256(encoded) }, image.length, sha256(image), true],
      );
      assert.deepEqual([report.written, report.unchanged], [[{ start: 0, end: image.length }], []]);
      const cut = encoded.subarray(0, encoded.length - 9);
      await assert.rejects(write(path, cut), { code: "E_ENCODING" });
      const damaged = Buffer.from(encoded);
      damaged.fill(0x55, 3 * mebi, 3 * mebi + 99);
      await assert.rejects(write(path, damaged), { code: "E_ENCODING" });
      assert.ok(!openPaths().includes(path));

      const verbatim = await write(path, encoded, { format: "raw" });
      assert.deepEqual([verbatim.encoding, verbatim.mappedSha256], [null, sha256(encoded)]);
      assert.ok(readFileSync(backing).subarray(0, encoded.length).equals(encoded));
    },
  );
}

test("holes of an Android sparse image stay what the disk holds, also compressed", { skip }, async (t) => {
  const data = randomBytes(5 * mebi);
  const value = Buffer.from("fill");
  const image = sparseImage([raw(data), hole(700), fill(300, value), hole(256), raw(data.subarray(0, 4096)), hole(10)]);
  const bytes = data.length + (700 + 300 + 256 + 1 + 10) * 4096;
  const filled = data.length + 700 * 4096;
  const last = filled + (300 + 256) * 4096;
  for (const given of [image, gzipSync(image, { level: 1 })]) {
    const before = randomBytes(16 * mebi);
    const { path, backing } = loopDisk(t, { content: before });
    const report = await write(path, given);
    const expected = Buffer.from(before);
    data.copy(expected);
    expected.fill(value, filled, filled + 300 * 4096);
    data.copy(expected, last, 0, 4096);
    assert.ok(readFileSync(backing).equals(expected));
    assert.deepEqual([report.imageFormat, report.bytes, report.verified], ["android-sparse", bytes, true]);
    assert.deepEqual(report.written, [
      { start: 0, end: data.length },
      { start: filled, end: filled + 300 * 4096 },
      { start: last, end: last + 4096 },
    ]);
    const mapped = Buffer.concat([data, Buffer.alloc(300 * 4096, value), data.subarray(0, 4096)]);
    assert.deepEqual([report.mappedBytes, report.mappedSha256], [mapped.length, sha256(mapped)]);
  }
});

test("a file is as long as an image that ends with a hole", async (t) => {
  const path = join(scratch(t), "file");
  writeFileSync(path, "");
  await write(path, sparseImage([raw(randomBytes(4096)), hole(99)]), { allowFile: true });
  assert.equal(statSync(path).size, 100 * 4096);
});

test("an image that says how large it is is refused before its first byte", { skip }, async (t) => {
  const before = randomBytes(4 * mebi);
  const large = Buffer.alloc(4 * mebi + 512, 1);
  const folder = scratch(t);
  const file = join(folder, "large");
  writeFileSync(file, large);
  const { path, backing } = loopDisk(t, { sizeBytes: 4 * mebi, content: before });
  for (const image of [
    sparseImage([raw(before), hole(1)]),
    execFileSync("zstd", ["-c", file], { maxBuffer: 8 * mebi }),
  ]) {
    await assert.rejects(write(path, image), { code: "E_TARGET", message: /larger than it \(\d+ > 4194304 bytes\)/ });
  }
  truncateSync(file, 5 * mebi);
  execFileSync("bmaptool", ["create", "-o", `${file}.bmap`, file], { stdio: "pipe" });
  const bmap = parseBmap(readFileSync(`${file}.bmap`));
  await assert.rejects(write(path, readFileSync(file), { bmap }), { code: "E_TARGET", message: /larger than it/ });
  assert.ok(readFileSync(backing).equals(before), "nothing was written");
});

for (const blockBytes of [512, 4096]) {
  test(`only what a block map maps is written, on blocks of ${blockBytes} bytes`, { skip }, async (t) => {
    const before = randomBytes(16 * mebi);
    const { path, backing } = loopDisk(t, { content: before, blockBytes });
    const file = join(scratch(t), "image");
    const pieces = [0, 8192, 3 * mebi, 3 * mebi + 12_288, 7 * mebi - 4096, 12 * mebi].map(
      (at) => [at, randomBytes(6000)] as const,
    );
    writeFileSync(file, "");
    for (const [position, bytes] of pieces) setBytes(file, position, bytes);
    truncateSync(file, 14 * mebi + 1);
    setBytes(file, 14 * mebi, Buffer.from("x"));
    execFileSync("bmaptool", ["create", "-o", `${file}.bmap`, file], { stdio: "pipe" });
    const bmap = parseBmap(readFileSync(`${file}.bmap`));
    const image = readFileSync(file);
    const expected = Buffer.from(before);
    for (const { start, end } of bmap.ranges) image.copy(expected, start, start, end);
    for (const given of [image, gzipSync(image)]) {
      setBytes(backing, 0, before);
      const report = await write(path, given, { bmap });
      assert.ok(readFileSync(backing).equals(expected));
      assert.deepEqual(
        report.written,
        bmap.ranges.map(({ start, end }) => ({ start, end })),
      );
      assert.deepEqual([report.mappedBytes, report.bytes], [bmap.mappedBytes, image.length]);
      assert.deepEqual(report.given, { bytes: given.length, sha256: sha256(given) });
    }
    const flipped = Buffer.from(image);
    flipped[3 * mebi] = (flipped[3 * mebi] ?? 0) ^ 1;
    await assert.rejects(write(path, flipped, { bmap }), { code: "E_DIGEST", message: /bytes 3145728 to \d+ differ/ });
  });
}

test("a bit that flips in a hole is nobody's; one in a mapped range fails, with the range", { skip }, async (t) => {
  const data = randomBytes(4096);
  const image = sparseImage([raw(data), hole(300), raw(data)]);
  const second = 301 * 4096;
  for (const [position, range] of [
    [4096 + 77, undefined],
    [second + 5, `bytes ${second} to ${second + 4095} differ`],
  ] as const) {
    const { path, backing } = loopDisk(t);
    const flip = ({ phase, bytes }: { phase: string; bytes: number }) => {
      if (phase !== "verify" || bytes > 0) return;
      setBytes(backing, position, Buffer.from([(readFileSync(backing)[position] ?? 0) ^ 16]));
    };
    const writing = write(path, image, {}, { onProgress: flip });
    if (range === undefined) await writing;
    else await assert.rejects(writing, { code: "E_DIGEST", message: new RegExp(range) });
  }
});

function remembering(t: TestContext) {
  const directory = join(scratch(t), "a", "b");
  return { directory, remembered: writtenBlocksIn(directory, logs().log) };
}

for (const direct of [true, false]) {
  test(
    `what is on the medium already is not written again, ${direct ? "past" : "through"} the page cache`,
    { skip },
    async (t) => {
      const { remembered } = remembering(t);
      const { path, backing } = loopDisk(t, { sizeBytes: 32 * mebi });
      const image = randomBytes(20 * mebi + 700);
      const first = await write(path, image, { remembered, direct });
      assert.deepEqual(first.unchanged, []);
      const same = await write(path, image, { remembered, direct });
      assert.deepEqual([same.written, same.unchanged], [[], [{ start: 0, end: image.length }]]);
      assert.deepEqual([same.verified, same.mappedSha256], [true, sha256(image)]);

      // Another image, and a medium that somebody has changed behind our back.
      const changed = Buffer.from(image);
      changed.fill(1, 5 * mebi + 9, 5 * mebi + 10);
      setBytes(backing, 9 * mebi + 3, Buffer.from("changed"));
      setBytes(backing, image.length - 1, Buffer.from([(image.at(-1) ?? 0) ^ 1]));
      const second = await write(path, changed, { remembered, direct });
      assert.deepEqual(second.written, [
        { start: 5 * mebi, end: 6 * mebi },
        { start: 9 * mebi, end: 10 * mebi },
        { start: 20 * mebi, end: image.length },
      ]);
      assert.ok(readFileSync(backing).subarray(0, image.length).equals(changed));
      assert.equal(second.mappedSha256, sha256(changed));
    },
  );
}

test("of what was written between unchanged blocks, the first range that differs is told", { skip }, async (t) => {
  const { remembered } = remembering(t);
  const image = randomBytes(20 * mebi);
  const changed = Buffer.from(image);
  for (const cell of [1, 9, 17]) changed.fill(1, cell * mebi, cell * mebi + 5);
  for (const [bad, first] of [
    [[17], 17],
    [[17, 9], 9],
  ] as const) {
    const { path, backing } = loopDisk(t, { sizeBytes: 32 * mebi });
    await write(path, image, { remembered });
    const flip = ({ phase, bytes }: { phase: string; bytes: number }) => {
      if (phase !== "verify" || bytes > 0) return;
      for (const cell of bad) setBytes(backing, cell * mebi + 3, Buffer.from([2]));
    };
    await assert.rejects(write(path, changed, { remembered }, { onProgress: flip }), {
      code: "E_DIGEST",
      message: new RegExp(`bytes ${first * mebi} to ${(first + 1) * mebi - 1} differ`),
    });
    // Nothing is known of a medium that was found wrong.
    assert.deepEqual((await write(path, changed, { remembered })).unchanged, []);
  }
});

test("unchanged blocks of images with holes and block maps", { skip }, async (t) => {
  const { remembered } = remembering(t);
  const { path } = loopDisk(t);
  const [one, two] = [randomBytes(2 * mebi), randomBytes(4096)];
  const imageOf = (last: Buffer) => sparseImage([raw(one), hole(100), raw(two), hole(100), raw(last)]);
  await write(path, imageOf(two), { remembered });
  const again = await write(path, imageOf(randomBytes(8192)), { remembered });
  const [start] = [2 * mebi + 100 * 4096];
  // Both parts are in one cell.
  assert.deepEqual(again.unchanged, [{ start: 0, end: 2 * mebi }]);
  assert.equal(again.written[0]?.start, start);
});

test(
  "a medium is remembered only from its end to the next first byte, and only where it is the same",
  { skip },
  async (t) => {
    const { remembered, directory } = remembering(t);
    const { path } = loopDisk(t);
    const image = randomBytes(8 * mebi);
    await write(path, image, { remembered });
    assert.equal(readdirSync(directory).length, 1);
    const broken = new Readable({ read() {} });
    broken.push(image.subarray(0, 5 * mebi));
    const names: string[][] = [];
    const writing = write(
      path,
      broken,
      { remembered },
      {
        onProgress: () => {
          names.push(readdirSync(directory));
          broken.destroy(new Error("cut"));
        },
      },
    );
    await assert.rejects(writing, { message: "cut" });
    assert.deepEqual([names[0], readdirSync(directory)], [[], []]);
    await write(path, image, { remembered });
    const other = loopDisk(t);
    assert.deepEqual((await write(other.path, image, { remembered })).unchanged, []);
    for (const file of readdirSync(directory)) writeFileSync(join(directory, file), "{ garbled");
    assert.deepEqual((await write(path, image, { remembered })).unchanged, []);
  },
);

test("a directory that cannot be written costs nothing but time", { skip }, async (t) => {
  const folder = smallFileSystem(t, 4096 * 8);
  writeFileSync(join(folder, "full"), Buffer.alloc(4096 * 8));
  const { log, lines } = logs();
  const { path } = loopDisk(t);
  const image = randomBytes(mebi);
  const report = await write(path, image, { remembered: writtenBlocksIn(join(folder, "a", "b", "c"), log) });
  assert.ok(report.verified);
  assert.match(lines.join("\n"), /does not remember what is on media: .*No space left/i);
});

test("an image on the disk itself is not written to it", { skip }, async (t) => {
  const { path, backing } = loopDisk(t);
  for (const imagePath of [path, backing]) {
    await assert.rejects(write(path, Buffer.alloc(512), { imagePath }), {
      code: "E_TARGET",
      message: new RegExp(`: the image ${imagePath} is on it$`),
    });
  }
  await write(path, Buffer.alloc(512), { imagePath: import.meta.filename });
});

test("progress of a compressed image estimates by what has come of it", { skip }, async (t) => {
  const { path } = loopDisk(t, { sizeBytes: 64 * mebi });
  const image = gzipSync(randomBytes(40 * mebi), { level: 0 });
  const slow = Readable.from(
    (async function* () {
      for (let start = 0; start < image.length; start += 2 * mebi) {
        await new Promise((resolve) => setTimeout(resolve, 100));
        yield image.subarray(start, start + 2 * mebi);
      }
    })(),
    { objectMode: false },
  );
  const estimates: { readonly givenBytes: number; readonly remainingMs: number; readonly atMs: number }[] = [];
  let endMs = 0;
  await write(
    path,
    slow,
    { givenBytes: image.length },
    {
      onProgress: ({ phase, givenBytes, remainingMs, totalBytes }) => {
        if (phase !== "write") return;
        assert.equal(totalBytes, undefined);
        endMs = performance.now();
        if (remainingMs !== undefined) estimates.push({ givenBytes, remainingMs, atMs: endMs });
      },
    },
  );
  const [early] = estimates;
  assert.ok(early !== undefined && early.givenBytes < image.length, JSON.stringify(estimates));
  const really = endMs - early.atMs;
  assert.ok(early.remainingMs > really / 3 && early.remainingMs < really * 3, `${early.remainingMs} for ${really}`);
  assert.equal(estimates.at(-1)?.remainingMs, 0);
});

test("given up at any moment: nothing is open, nothing runs, nothing is written any more", { skip }, async (t) => {
  const { remembered } = remembering(t);
  const { path, backing } = loopDisk(t, { sizeBytes: 32 * mebi });
  const image = randomBytes(24 * mebi);
  const encoded = piped("zstd", image, "-1");
  await write(path, image, { remembered });
  let cancelled = 0;
  for (let afterMs = 0; afterMs < 400; afterMs += 16) {
    setBytes(backing, 0, Buffer.alloc(8 * mebi));
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), afterMs);
    try {
      await write(path, encoded, afterMs % 32 === 0 ? { remembered } : {}, { signal: abort.signal });
    } catch (error) {
      assert.equal((error as Error).name, "AbortError");
      cancelled += 1;
    }
    clearTimeout(timer);
    const then = sha256(readFileSync(backing));
    assert.ok(!openPaths().includes(path));
    const children = readFileSync(`/proc/self/task/${process.pid}/children`, "utf8");
    assert.equal(children.trim(), "");
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(sha256(readFileSync(backing)), then);
  }
  assert.ok(cancelled > 3, `cancelled ${cancelled} times`);
});
