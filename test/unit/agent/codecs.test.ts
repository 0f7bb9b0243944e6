import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { addAbortSignal, PassThrough, Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { buffer } from "node:stream/consumers";
import { deflateSync, gzipSync } from "node:zlib";
import { AgentError } from "../../../agent/driver/errors.ts";
import { contentEncodings } from "../../../agent/driver/resource.ts";
import { decoded, encoded, supportsEncoding } from "../../../agent/stream/codecs.ts";
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

for (const encoding of contentEncodings) {
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
