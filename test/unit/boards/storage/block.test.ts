// Images on real block devices (loop devices need root) and on files.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync, closeSync } from "node:fs";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { test } from "node:test";
import { AgentError } from "../../../../agent/driver/errors.ts";
import { readImage } from "../../../../boards/storage/block/read.ts";
import { writeImage, type Progress } from "../../../../boards/storage/block/write.ts";
import { scratch } from "../../../sim/agent.ts";
import { fakeKernel } from "../../../sim/fake-disks.ts";
import { at, inPieces, logs, openPaths, sha256, write } from "../../../sim/block-writer.ts";
import { loopDisk, missingLoops, mountOn, onePartition, smallFileSystem } from "../../../sim/loop.ts";

const mebi = 2 ** 20;
const skip = missingLoops;

async function read(path: string, limitBytes?: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const sink = new Writable({
    write(piece: Buffer, _encoding, done) {
      pieces.push(piece);
      done();
    },
  });
  const context = { signal: new AbortController().signal, log: logs().log };
  const report = await readImage(at(path), sink, { timeoutMs: 500, allowFile: true, limitBytes }, context);
  const image = Buffer.concat(pieces);
  assert.equal(report.bytes, image.length);
  assert.equal(report.sha256, sha256(image));
  return image;
}

for (const direct of [true, false]) {
  for (const bytes of [0, 1, 511, 512, 4096, mebi, 4 * mebi, 4 * mebi + 1, 9 * mebi + 12_345, 16 * mebi]) {
    test(
      `an image of ${bytes} bytes is written ${direct ? "past" : "through"} the page cache, and what follows stays`,
      { skip },
      async (t) => {
        const before = randomBytes(16 * mebi);
        const { path, backing } = loopDisk(t, { content: before });
        const image = randomBytes(bytes);
        const report = await write(path, image, { direct });
        assert.deepEqual(
          [report.bytes, report.mappedSha256, report.verified, report.direct, report.deviceBytes, report.retries],
          [bytes, sha256(image), true, direct, 16 * mebi, 0],
        );
        const now = readFileSync(backing);
        assert.ok(now.subarray(0, bytes).equals(image), "the image");
        assert.ok(now.subarray(bytes).equals(before.subarray(bytes)), "what follows");
        assert.ok((await read(path)).equals(now), "the whole disk is read");
        assert.ok(!openPaths().includes(path), "the disk is closed");
      },
    );
  }
}

test("disks with blocks of 4096 bytes keep what follows the image, too", { skip }, async (t) => {
  const before = randomBytes(8 * mebi);
  const { path, backing } = loopDisk(t, { content: before, sizeBytes: 8 * mebi, blockBytes: 4096 });
  const image = randomBytes(mebi + 513);
  assert.equal((await write(path, image)).direct, true);
  const now = readFileSync(backing);
  assert.ok(now.subarray(0, image.length).equals(image));
  assert.ok(now.subarray(image.length).equals(before.subarray(image.length)));
});

test("a file stands in for a disk where that is allowed: it grows, and is never cut", async (t) => {
  const path = join(scratch(t), "file");
  writeFileSync(path, "");
  await assert.rejects(write(path, Buffer.from("x")), { code: "E_TARGET", message: `${path} is not a block device` });
  const image = randomBytes(5 * mebi + 17);
  await write(path, image, { allowFile: true });
  assert.ok(readFileSync(path).equals(image));
  const shorter = randomBytes(1000);
  await write(path, shorter, { allowFile: true });
  assert.ok(readFileSync(path).equals(Buffer.concat([shorter, image.subarray(1000)])));
  assert.ok((await read(path)).equals(readFileSync(path)));
});

test("progress is that of the device, in each of its phases, and is logged each 50 MiB", { skip }, async (t) => {
  const { path } = loopDisk(t, { sizeBytes: 128 * mebi });
  const progress: Progress[] = [];
  const { log, lines } = logs();
  const image = Buffer.alloc(110 * mebi, 7);
  await writeImage(
    inPieces(image),
    at(path),
    { timeoutMs: 500, verify: true, leewayMs: 10, fsyncTimeoutMs: 1_000, imageBytes: image.length },
    { signal: new AbortController().signal, log, onProgress: (one) => progress.push(one) },
  );
  assert.deepEqual([...new Set(progress.map(({ phase }) => phase))], ["write", "sync", "verify", "leeway"]);
  for (const phase of ["write", "verify"]) {
    const bytes = progress.filter((one) => one.phase === phase).map((one) => one.bytes);
    assert.deepEqual(
      bytes,
      [...bytes].sort((a, b) => a - b),
    );
    assert.equal(bytes.at(-1), image.length);
  }
  assert.deepEqual(
    lines.filter((line) => /^written \d+ MB to/.test(line)).map((line) => line.split(" ")[1]),
    ["4", "52", "104"],
  );
});

test(
  "an image larger than the disk is refused when its size is known, and ends with an error when it is not",
  { skip },
  async (t) => {
    const before = randomBytes(4 * mebi);
    const { path, backing } = loopDisk(t, { sizeBytes: 4 * mebi, content: before });
    const image = Buffer.alloc(4 * mebi + 1, 1);
    await assert.rejects(write(path, image, { imageBytes: image.length }), {
      code: "E_TARGET",
      message: /larger than it/,
    });
    assert.ok(readFileSync(backing).equals(before), "nothing was written");
    await assert.rejects(write(path, image), { code: "E_TARGET", message: /larger than its 4194304 bytes/ });
  },
);

test("what the host has in use is not written", { skip }, async (t) => {
  const mounted = loopDisk(t);
  execFileSync("mke2fs", ["-q", "-t", "ext4", mounted.path]);
  // Not to be written by its file system meanwhile.
  const folder = mountOn(t, mounted.path, ["-o", "ro"]);
  const before = sha256(readFileSync(mounted.path));
  await assert.rejects(write(mounted.path, Buffer.alloc(512)), {
    code: "E_TARGET",
    message: new RegExp(`^${mounted.path} .* is mounted at ${folder}$`),
  });
  assert.equal(sha256(readFileSync(mounted.path)), before);

  // The kernel knows better than what can be seen from here, say the mounts of another container.
  const number = `7:${mounted.path.slice("/dev/loop".length)}`;
  const roots = fakeKernel(t, { sdz: { number, sectors: 16 * 2048 } });
  await assert.rejects(write(mounted.path, Buffer.alloc(512), { roots }), {
    code: "E_TARGET",
    message: /another program or the kernel has it in use/,
  });

  const readOnly = loopDisk(t, { readOnly: true });
  await assert.rejects(write(readOnly.path, Buffer.alloc(512)), { code: "E_TARGET", message: /it is read-only/ });

  const parted = loopDisk(t, { content: onePartition(4096) });
  // Not every kernel reads the tables of PCs.
  if (!existsSync(`${parted.path}p1`)) return;
  await assert.rejects(write(`${parted.path}p1`, Buffer.alloc(512)), {
    code: "E_TARGET",
    message: /it is a partition/,
  });
});

test("while an image is written, nobody can mount the disk or write another one to it", { skip }, async (t) => {
  const { path } = loopDisk(t);
  execFileSync("mke2fs", ["-q", "-t", "ext4", path]);
  let send = (): void => {};
  const source = new Readable({ read() {} });
  const began = new Promise<void>((resolve) => (send = resolve));
  const writing = write(path, source, {}, { onProgress: () => send() });
  source.push(Buffer.alloc(8 * mebi));
  await began;
  const folder = join(scratch(t), "mounted");
  mkdirSync(folder);
  assert.throws(() => execFileSync("mount", [path, folder], { stdio: "pipe" }));
  await assert.rejects(write(path, Buffer.alloc(1), { timeoutMs: 0 }), { code: "E_TARGET", message: /in use/ });
  source.push(null);
  await writing;
});

test("a disk is waited for, and so is its medium", { skip }, async (t) => {
  const disk = loopDisk(t);
  disk.eject();
  let looks = 0;
  const target = {
    locate() {
      looks += 1;
      if (looks === 2) disk.insert();
      return looks < 2 ? undefined : disk.path;
    },
    absent: "no disk came",
  };
  await write(target, Buffer.from("image"), { timeoutMs: 5_000 });
  assert.equal(readFileSync(disk.backing).toString("latin1", 0, 5), "image");
  await assert.rejects(write({ locate: () => undefined, absent: "no disk came" }, Buffer.alloc(1), { timeoutMs: 0 }), {
    code: "E_FAILED",
    message: "no disk came",
  });
  disk.eject();
  await assert.rejects(write(disk.path, Buffer.alloc(1)), {
    code: "E_TIMEOUT",
    message: `storage device ${disk.path} did not become ready within storage_timeout (0.5 s): no medium`,
  });
  await assert.rejects(write("/dev/nope", Buffer.alloc(1), { timeoutMs: 0 }), {
    code: "E_TIMEOUT",
    message: /No such file/,
  });
});

test("a medium that is another one than was looked at is not written", { skip }, async (t) => {
  const { path, backing } = loopDisk(t);
  const number = `7:${path.slice("/dev/loop".length)}`;
  const roots = fakeKernel(t, { sdz: { number, sectors: 16 * 2048, diskSequence: 1 } });
  await assert.rejects(write(path, Buffer.alloc(512, 1), { roots }), { message: /its medium has changed/ });
  assert.ok(readFileSync(backing).equals(Buffer.alloc(16 * mebi)));
});

test("a medium that holds other bytes than were written is told, with the range", { skip }, async (t) => {
  for (const [flipped, range] of [
    [0, "bytes 0 to 1048575"],
    [5 * mebi + 77, "bytes 5242880 to 6291455"],
    [9 * mebi, "bytes 9437184 to 9437184"],
  ] as const) {
    for (const direct of [true, false]) {
      const { path, backing } = loopDisk(t);
      const image = randomBytes(9 * mebi + 1);
      const lie = ({ phase, bytes }: Progress) => {
        if (phase !== "verify" || bytes > 0) return;
        // What the page cache of the device holds is still right.
        const file = openSync(backing, "r+");
        writeSync(file, Buffer.from([(image[flipped] ?? 0) ^ 4]), 0, 1, flipped);
        closeSync(file);
      };
      await assert.rejects(write(path, image, { direct }, { onProgress: lie }), {
        code: "E_DIGEST",
        message: new RegExp(`^${path} .* holds other bytes than were written to it: ${range} differ$`),
      });
    }
  }
});

test("a disk that takes no more is told, with the place", { skip }, async (t) => {
  const small = smallFileSystem(t, 6 * mebi);
  const disk = loopDisk(t, { folder: small, sizeBytes: 32 * mebi });
  await assert.rejects(write(disk.path, randomBytes(20 * mebi)), {
    code: "E_IO",
    message: /^write of \/dev\/loop\d+ .* at byte \d+ failed( in 4 attempts)?: \[Errno (5|28)\] /,
  });
});

for (const phase of ["write", "verify", "leeway"] as const) {
  test(
    `given up while it is in the phase ${phase}: the disk is closed, and the reason is told`,
    { skip },
    async (t) => {
      const { path } = loopDisk(t, { sizeBytes: 64 * mebi });
      const reason = new AgentError("E_CANCELLED", "the lease has ended");
      const abort = new AbortController();
      const writing = write(
        path,
        Buffer.alloc(40 * mebi, 1),
        { leewayMs: 60_000 },
        {
          signal: abort.signal,
          onProgress: (progress) => {
            if (progress.phase === phase) abort.abort(reason);
          },
        },
      );
      await assert.rejects(writing, (error) => error === reason);
      assert.ok(!openPaths().includes(path));
    },
  );
}

test("a source that stalls is given up at once, one that breaks is told", { skip }, async (t) => {
  const { path } = loopDisk(t);
  const abort = new AbortController();
  const stalled = new Readable({ read() {} });
  stalled.push(Buffer.alloc(1000));
  const writing = write(path, stalled, {}, { signal: abort.signal });
  setTimeout(() => abort.abort(), 50);
  await assert.rejects(writing, { name: "AbortError" });
  assert.ok(stalled.destroyed);
  const broken = new Readable({ read() {} });
  broken.push(Buffer.alloc(5 * mebi));
  setTimeout(() => broken.destroy(new AgentError("E_CONNECTION", "the stream broke before its end")), 50);
  await assert.rejects(write(path, broken), { code: "E_CONNECTION" });
  const before = new Readable({ read() {} });
  before.destroy(new AgentError("E_CONNECTION", "already broken"));
  await assert.rejects(write(path, before), { code: "E_CONNECTION" });
  assert.ok(!openPaths().includes(path));
});

test("what a reader does not take is not read ahead, and one that goes away ends it", { skip }, async (t) => {
  const { path } = loopDisk(t, { sizeBytes: 64 * mebi });
  let taken = 0;
  const sink = new Writable({
    write(piece: Buffer, _encoding, done) {
      taken += piece.length;
      if (taken > 4 * mebi) done(new AgentError("E_CONNECTION", "the client has gone"));
      else done();
    },
  });
  const context = { signal: new AbortController().signal, log: logs().log };
  await assert.rejects(readImage(at(path), sink, { timeoutMs: 500 }, context), { code: "E_CONNECTION" });
  assert.ok(!openPaths().includes(path));
});
