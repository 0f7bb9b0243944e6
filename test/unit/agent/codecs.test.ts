import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { addAbortSignal, PassThrough, Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { buffer } from "node:stream/consumers";
import { deflateSync, gzipSync } from "node:zlib";
import { AgentError } from "../../../agent/driver/errors.ts";
import { contentEncodings } from "../../../agent/driver/resource.ts";
import { bytesOf, FileStream } from "../../../agent/stream/byte-source.ts";
import { decoded, encoded, openDecoder, supportsEncoding } from "../../../agent/stream/codecs.ts";
import { commands } from "../../../agent/sys/pipe.ts";
import { scratch } from "../../sim/agent.ts";
import { cValues, noCompiler } from "../../sim/c-values.ts";
import { eventually, pattern } from "../../sim/rig.ts";

const programs = { gzip: "gzip", xz: "xz", bz2: "bzip2", zstd: "zstd" } as const;
const plain = Buffer.concat([...pattern(3 * 1024 * 1024 + 11)]);

function run(program: string, args: string[], input: Buffer): Buffer {
  const { status, stdout } = spawnSync(program, args, { input, maxBuffer: 64 * 1024 * 1024 });
  assert.equal(status, 0);
  return stdout;
}

/** Codec programs that are our children, also those that nobody has waited for. */
function children(): number {
  const ours = new RegExp(`^\\d+ \\((${Object.values(programs).join("|")})\\) . ${process.pid} `);
  return readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && ours.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
    } catch {
      return false;
    }
  }).length;
}

/** Into memory that is shared with other threads, as the block writer's is. */
async function readAll(encoding: keyof typeof programs, input: Buffer): Promise<Buffer> {
  const { input: decoder, content } = await openDecoder(encoding);
  decoder.on("error", () => {});
  decoder.end(input);
  const memory = Buffer.from(new SharedArrayBuffer(100_003));
  const parts: Buffer[] = [];
  try {
    for (let count; (count = await content.read(memory)) > 0;) parts.push(Buffer.from(memory.subarray(0, count)));
    assert.equal(await content.read(memory), 0, "the end stays the end");
  } finally {
    decoder.destroy();
  }
  return Buffer.concat(parts);
}

for (const encoding of contentEncodings) {
  test(`${encoding} is read into memory that is there`, async () => {
    const theirs = run(programs[encoding], ["-c"], plain);
    assert.deepEqual(await readAll(encoding, theirs), plain);
    for (const bad of [theirs.subarray(0, -9), Buffer.from("certainly no archive")]) {
      await assert.rejects(readAll(encoding, bad), { code: "E_ENCODING" });
    }
    const { input, content } = await openDecoder(encoding);
    input.on("error", () => {});
    const reading = content.read(Buffer.alloc(10));
    setTimeout(() => input.destroy(new AgentError("E_CONNECTION", "the source broke")), 50);
    await assert.rejects(reading, { code: "E_CONNECTION" });
    await eventually("no child is left", () => children() === 0);
  });

  test(`${encoding} made by others is read, and what we make others read`, async () => {
    assert.ok(supportsEncoding(encoding));
    const theirs = run(programs[encoding], ["-c"], plain);
    assert.deepEqual(await buffer(decoded(Readable.from([theirs]), encoding)), plain);
    const to = new PassThrough();
    const ours = buffer(to);
    await pipeline(pattern(plain.length), encoded(to, encoding));
    assert.deepEqual(run(programs[encoding], ["-dc"], await ours), plain);
  });

  test(`${encoding} that is cut off, damaged or empty fails and leaves no process`, async () => {
    const good = run(programs[encoding], ["-c"], plain);
    for (const bad of [
      good.subarray(0, -9),
      good.subarray(0, 3),
      Buffer.from("certainly no archive"),
      Buffer.alloc(0),
    ]) {
      const from = Readable.from(bad.length > 0 ? [bad] : []);
      await assert.rejects(buffer(decoded(from, encoding)), { code: "E_ENCODING" });
    }
    await eventually("no child is left", () => children() === 0);
  });

  test(`${encoding} stops when either side is destroyed`, async () => {
    const endless = new Readable({
      read() {
        this.push(Buffer.alloc(64 * 1024));
      },
    });
    const reading = encoded(new Writable({ write: (_chunk, _encoding, done) => setTimeout(done, 1) }), encoding);
    const piped = pipeline(endless, reading);
    reading.destroy();
    await assert.rejects(piped);
    const half = new PassThrough();
    const decoder = decoded(half, encoding);
    const read = buffer(decoder);
    half.write(run(programs[encoding], ["-c"], plain).subarray(0, 100));
    half.destroy();
    await assert.rejects(read, { code: "E_CONNECTION" });
    await eventually("no child is left", () => children() === 0);
  });
}

for (const encoding of contentEncodings) {
  test(`${encoding} that is given up says why, and is not called damaged`, async () => {
    const start = run(programs[encoding], ["-c"], plain).subarray(0, 100);
    const reason = new Error("enough");
    const controller = new AbortController();
    const aborted = addAbortSignal(controller.signal, decoded(new PassThrough(), encoding));
    const read = buffer(aborted);
    controller.abort(reason);
    await assert.rejects(read, (error: Error) => error.name === "AbortError" && error.cause === reason);

    const source = new PassThrough().on("error", () => {});
    const broken = buffer(decoded(source, encoding));
    source.write(start);
    const failure = Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET", errno: -104, syscall: "read" });
    source.destroy(failure);
    await assert.rejects(broken, (error) => error === failure);

    const coded = new PassThrough().on("error", () => {});
    const refused = buffer(decoded(coded, encoding));
    const digest = new AgentError("E_DIGEST", "not what its digest says");
    coded.destroy(digest);
    await assert.rejects(refused, (error) => error === digest);
    await eventually("no child is left", () => children() === 0);
  });
}

test("zlib data counts as gzip, and several members are one file", async () => {
  assert.deepEqual(await buffer(decoded(Readable.from([deflateSync(plain)]), "gzip")), plain);
  const two = Buffer.concat([gzipSync(plain), gzipSync(plain)]);
  assert.equal((await buffer(decoded(Readable.from([two]), "gzip"))).length, plain.length * 2);
});

test("an encoding is unsupported without its program, or when compression is switched off", (t) => {
  const { PATH } = process.env;
  t.after(() => {
    process.env["PATH"] = PATH;
    delete process.env["JMP_DISABLE_COMPRESSION"];
  });
  process.env["PATH"] = "/nonexistent";
  assert.equal(supportsEncoding("xz"), false);
  assert.equal(supportsEncoding("gzip"), true);
  process.env["JMP_DISABLE_COMPRESSION"] = "1";
  assert.equal(supportsEncoding("gzip"), false);
});

test("a program that is not there is an error of its stream alone", async (t) => {
  const { PATH } = process.env;
  t.after(() => (process.env["PATH"] = PATH));
  process.env["PATH"] = "/nonexistent";
  await assert.rejects(buffer(decoded(Readable.from([plain]), "xz")), {
    code: "E_UNSUPPORTED",
    message: "the program xz is not installed",
  });
});

test("what a decoder leaves to the collector is bounded", async () => {
  const { input, content } = await openDecoder("gzip");
  input.end(gzipSync(Buffer.alloc(256 * 1024 * 1024), { level: 1 }));
  const memory = Buffer.alloc(1024 * 1024);
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  while ((await content.read(memory)) > 0) most = Math.max(most, process.memoryUsage().arrayBuffers - before);
  assert.ok(most < 30 * 1024 * 1024, `${most} bytes`);
});

test("a file is read as a stream, or into memory that is there; it is closed with its stream", async (t) => {
  const path = join(scratch(t), "file");
  writeFileSync(path, plain);
  assert.deepEqual(await buffer(await FileStream.open(path)), plain);

  const stream = await FileStream.open(path);
  const source = bytesOf(stream);
  const memory = Buffer.alloc(plain.length - 10);
  assert.equal(await source.read(memory), memory.length);
  assert.deepEqual(memory, plain.subarray(0, memory.length));
  assert.deepEqual([await source.read(memory), await source.read(memory)], [10, 0]);
  const open = () => readdirSync("/proc/self/fd").some((fd) => linkOf(`/proc/self/fd/${fd}`) === path);
  assert.ok(open());
  stream.destroy();
  await once(stream, "close");
  assert.ok(!open());
  await assert.rejects(source.read(memory), /the file is closed/);

  const abort = new AbortController();
  const given = bytesOf((await FileStream.open(path, { signal: abort.signal })).on("error", () => {}));
  abort.abort();
  await assert.rejects(given.read(memory), { name: "AbortError" });
  await assert.rejects(FileStream.open(`${path}x`), { code: "ENOENT" });
});

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

test("numbers for pipes are those of C's headers", { skip: noCompiler }, (t) => {
  const values = cValues(t, ["fcntl.h"], Object.keys(commands));
  assert.deepEqual(values, Object.values(commands));
});
