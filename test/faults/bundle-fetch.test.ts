import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Digest } from "../../bundles/oci/digest.ts";
import { fetchBlob } from "../../bundles/oci/fetch-blob.ts";
import { parseReference, type RegistryReference } from "../../bundles/oci/reference.ts";
import { openRegistry } from "../../bundles/oci/registry.ts";
import { temporaryDirectory } from "../sim/bundle.ts";
import { sha256, startFakeRegistry } from "../sim/registry.ts";

const content = randomBytes(1024 * 1024);
const expected = { digest: sha256(content) as Digest, size: content.length };

/** Answers a request for the blob; `from` is where its Range begins, 0 without one. */
type Answer = (response: ServerResponse, from: number, request: IncomingMessage) => void;

/** A registry with one blob, answered in the given ways, the last one again and again; and who fetches it. */
async function lab(t: TestContext, ...answers: Answer[]) {
  const registry = await startFakeRegistry(t);
  const ranges: (string | undefined)[] = [];
  registry.answer = (request, response) => {
    const { range } = request.headers;
    ranges.push(range);
    const answer = answers[Math.min(ranges.length, answers.length) - 1];
    answer?.(response, Number(/\d+/.exec(range ?? "0")?.[0]), request);
    return answer !== undefined;
  };
  const path = join(await temporaryDirectory(t), "blob");
  const progress: number[] = [];
  const fetch = async (signal = AbortSignal.timeout(60_000)) => {
    const reference = parseReference(`${registry.host}/ns/repo`) as RegistryReference;
    const source = openRegistry(reference, { plainHttp: [registry.host], silenceMs: 500 });
    try {
      await fetchBlob(source, expected, path, {
        name: "the blob",
        signal,
        onProgress: (bytes) => progress.push(bytes),
      });
    } finally {
      await source.close();
    }
    assert.deepEqual(await readFile(path), content);
  };
  return { registry, ranges, path, progress, fetch };
}

const kinds = (ranges: readonly (string | undefined)[]) =>
  ranges.map((range) => (range === undefined ? "all" : "rest"));

const rest: Answer = (response, from) => {
  const range = { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` };
  response.writeHead(from > 0 ? 206 : 200, from > 0 ? range : {}).end(content.subarray(from));
};
/** Gives so many bytes of the rest and cuts the connection. */
const cutAfter =
  (bytes: number): Answer =>
  (response, from) => {
    const range = { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` };
    response.writeHead(from > 0 ? 206 : 200, { "content-length": content.length - from, ...(from > 0 ? range : {}) });
    response.write(content.subarray(from, from + bytes), () => response.destroy());
  };
const whole: Answer = (response) => void response.writeHead(200).end(content);
const withStatus =
  (status: number, headers: Record<string, string> = {}): Answer =>
  (response) =>
    void response.writeHead(status, headers).end();

test("a blob is had from a registry that cuts the connection every 64 KiB", async (t) => {
  const { fetch, ranges, progress } = await lab(t, (response, from, request) =>
    (content.length - from > 65_536 ? cutAfter(65_536) : rest)(response, from, request),
  );
  const before = performance.now();
  await fetch();
  // What was under way when the connection broke may be lost; hardly more than that is fetched twice.
  assert.ok(ranges.length >= 16 && ranges.length < 24, `${ranges.length} requests`);
  const starts = ranges.map((range) => Number(/\d+/.exec(range ?? "0")?.[0]));
  assert.deepEqual(
    starts,
    [...new Set(starts)].sort((a, b) => a - b),
  );
  assert.ok(performance.now() - before < 5_000, "progress is not punished by waiting");
  assert.deepEqual(
    progress,
    [...progress].sort((a, b) => a - b),
  );
  assert.equal(progress.at(-1), content.length);
});

test("a registry that gives a few bytes each time is given up", async (t) => {
  const { fetch, ranges, path } = await lab(t, cutAfter(100));
  await assert.rejects(fetch(), { code: "E_CONNECTION" });
  assert.equal(ranges.length, 3);
  assert.deepEqual(await readFile(path), content.subarray(0, 300));
});

test("what an earlier process has brought is continued, and checked like the rest", async (t) => {
  const { fetch, ranges, path } = await lab(t, rest);
  await writeFile(path, content.subarray(0, 700_000));
  await fetch();
  assert.deepEqual(ranges, ["bytes=700000-"]);
  await fetch();
  assert.equal(ranges.length, 1, "a whole blob is only read");

  const damaged = Buffer.from(content.subarray(0, 700_000));
  damaged[5] = (damaged[5] ?? 0) ^ 1;
  await writeFile(path, damaged);
  await fetch();
  assert.deepEqual(ranges.slice(1), ["bytes=700000-", undefined], "a damaged part is not trusted again");
  await writeFile(path, Buffer.concat([content, content]));
  await fetch();
  assert.deepEqual(ranges.slice(3), [undefined], "more than all of it is thrown away unasked");
});

const lies: Record<string, Answer> = {
  "that begins elsewhere": (response, from) =>
    void response
      .writeHead(206, { "content-range": `bytes 0-${content.length - from - 1}/${content.length}` })
      .end(content.subarray(0, content.length - from)),
  "of another blob": (response, from) =>
    void response.writeHead(206, { "content-range": `bytes ${from}-${content.length}/${content.length + 1}` }).end("x"),
  "that it does not name": (response, from) => void response.writeHead(206).end(content.subarray(from)),
  "that is garbage": (response) => void response.writeHead(206, { "content-range": "bytes" }).end("x"),
  "that it refuses": withStatus(416),
};
for (const [what, lie] of Object.entries(lies)) {
  test(`after a range ${what}, the whole blob is asked for`, async (t) => {
    const { fetch, ranges } = await lab(t, cutAfter(65_536), lie, whole);
    await fetch();
    assert.deepEqual(kinds(ranges), ["all", "rest", "all"]);
  });
}

test("a registry that knows no ranges sends all, and what is here already is skipped", async (t) => {
  const { fetch, ranges } = await lab(t, cutAfter(65_536), whole);
  await fetch();
  assert.deepEqual(kinds(ranges), ["all", "rest"]);
});

test("a range that is named right and filled wrong is found, and all is fetched once more", async (t) => {
  const forged: Answer = (response, from) => {
    const range = { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` };
    response.writeHead(206, range).end(Buffer.alloc(content.length - from));
  };
  const { fetch, ranges } = await lab(t, cutAfter(65_536), forged, whole);
  await fetch();
  assert.deepEqual(kinds(ranges), ["all", "rest", "all"]);
});

test("content that is wrong is fetched once, named, and gone", async (t) => {
  const wrong = Buffer.from(content);
  wrong[wrong.length - 1] = (wrong.at(-1) ?? 0) ^ 1;
  const ways: Record<string, [Uint8Array, RegExp]> = {
    flipped: [wrong, /^the blob is not what its digest says: expected sha256:/],
    short: [content.subarray(1), /^the blob ends after 1048575 of 1048576 bytes/],
    long: [Buffer.concat([content, content]), /^the blob is longer than the 1048576 bytes/],
    empty: [Buffer.alloc(0), /^the blob ends after 0 of/],
  };
  for (const [what, [bytes, message]] of Object.entries(ways)) {
    const { fetch, ranges, path } = await lab(t, (response) => void response.writeHead(200).end(bytes));
    await assert.rejects(fetch(), { code: "E_DIGEST", message }, what);
    assert.equal(ranges.length, 1, what);
    assert.equal(existsSync(path), false, what);
  }
});

test("a registry that is busy is asked again when it said, and not waited for too long", async (t) => {
  for (const status of [429, 503]) {
    const { fetch, ranges } = await lab(t, withStatus(status, { "retry-after": "1" }), whole);
    const before = performance.now();
    await fetch();
    assert.equal(ranges.length, 2);
    assert.ok(performance.now() - before >= 990, `HTTP ${status}: asked after the second that was wanted`);
  }
  const inTheFuture = new Date(Date.now() + 2_000).toUTCString();
  await (await lab(t, withStatus(503, { "retry-after": inTheFuture }), whole)).fetch();

  const long = await lab(t, withStatus(429, { "retry-after": "3600" }));
  await assert.rejects(long.fetch(), { code: "E_CONNECTION", message: /HTTP 429$/, hint: /3600 s/ });
  assert.equal(long.ranges.length, 1);
});

test("a registry that falls silent is given up, with what it gave kept", async (t) => {
  const stalls: Answer = (response, from) => {
    const range = { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` };
    response.writeHead(from > 0 ? 206 : 200, from > 0 ? range : {});
    response.write(content.subarray(from, from + 40_000));
  };
  const { fetch, ranges, path } = await lab(
    t,
    stalls,
    () => {},
    () => {},
    () => {},
  );
  await assert.rejects(fetch(), { code: "E_TIMEOUT", message: /does not answer in time/ });
  assert.deepEqual(ranges, [undefined, "bytes=40000-", "bytes=40000-", "bytes=40000-"]);
  assert.deepEqual(await readFile(path), content.subarray(0, 40_000));
});

test("a fetch that is cancelled ends at once", async (t) => {
  const { fetch } = await lab(t, withStatus(503, { "retry-after": "30" }));
  const before = performance.now();
  await assert.rejects(fetch(AbortSignal.timeout(300)), { name: "TimeoutError" });
  assert.ok(performance.now() - before < 2_000);
});
