import assert from "node:assert/strict";
import { mkdir, readdir, rm } from "node:fs/promises";
import { connect } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import { select } from "../../net/http/protocol.ts";
import { startHttp } from "../sim/http.ts";
import { folderWith, until } from "../sim/tftp.ts";

test("any Range and conditions select a part of the file or a status", () => {
  const header = fc.oneof(
    fc.string(),
    fc
      .array(fc.tuple(fc.option(fc.nat(99)), fc.option(fc.nat(99))), { maxLength: 5 })
      .map((ranges) => `bytes=${ranges.map(([a, b]) => `${a ?? ""}-${b ?? ""}`).join(",")}`),
  );
  const headers = fc.dictionary(
    fc.constantFrom("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"),
    header,
  );
  fc.assert(
    fc.property(headers, fc.nat(99), fc.constantFrom("GET" as const, "HEAD" as const), (given, sizeBytes, method) => {
      const selected = select(method, given, { sizeBytes, etag: '"e"', modified: new Date(1e12) });
      if (selected.status !== 206) return;
      let sum = 0;
      for (const { first, last } of selected.ranges) {
        assert.ok(0 <= first && first <= last && last < sizeBytes);
        sum += last - first + 1;
      }
      // However many are asked for, no byte is sent twice.
      assert.ok(0 < sum && sum <= sizeBytes);
    }),
  );
});

/** Requests that are nearly right: the interesting ones. */
const requests = fc.oneof(
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 300 }).map((any) => Buffer.from(any)) },
  {
    weight: 9,
    arbitrary: fc
      .record({
        method: fc.constantFrom("GET", "GET", "HEAD", "PUT", "POST", "OPTIONS", "PRI", "get", ""),
        target: fc.oneof(
          fc.constantFrom("/file", "/uploads/new", "/uploads/", "/uploads/../file", "*", "http://x/file", "//file"),
          fc.webPath(),
          fc.string({ maxLength: 60 }),
        ),
        version: fc.constantFrom("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", ""),
        headers: fc.array(
          fc.oneof(
            fc.constantFrom("Host: x", "Host: x", "Content-Length: 5", "Content-Length: 5, 6", "Content-Length: -1"),
            fc.constantFrom("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Expect: 100-continue"),
            fc.constantFrom("Upgrade: h2c", "Connection: Upgrade", "Connection: close", "Content-Range: bytes 0-1/2"),
            fc.string({ maxLength: 40 }).map((range) => `Range: bytes=${range}`),
            fc.constantFrom("Range: bytes=0-1,3-", "Range: bytes=-1", "Range: bytes=0-0,0-0", "If-Range: x"),
            fc.string({ maxLength: 40 }),
          ),
          { maxLength: 6 },
        ),
        body: fc.oneof(
          fc.constant(""),
          fc.constantFrom("12345", "5\r\n12345\r\n0\r\n\r\n", "ffffffff\r\n"),
          fc.string(),
        ),
        /** A byte that is another one on the way. */
        flip: fc.option(fc.tuple(fc.nat(200), fc.integer({ min: 1, max: 255 }))),
      })
      .map(({ method, target, version, headers, body, flip }) => {
        const bytes = Buffer.from(`${[`${method} ${target} ${version}`, ...headers].join("\r\n")}\r\n\r\n${body}`);
        const [at, mask] = flip ?? [0, 0];
        if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ mask;
        return bytes;
      }),
  },
);

const statuses = /^HTTP\/1\.1 (100|200|201|206|304|400|403|404|405|409|411|412|413|415|416|417|431|505|507) /;

test("a live HTTP server survives any requests, with documented answers only and no more memory", async (t) => {
  const root = await folderWith(t, { file: "content" });
  const folder = `${root}-uploads`;
  await mkdir(folder);
  t.after(async () => await rm(folder, { recursive: true }));
  const server = await startHttp(t, root, {
    uploads: { folder, maxBytes: 64, maxFiles: 50 },
    limits: { connections: 64, connectionsPerPeer: 64 },
  });
  /** @param patienceMs half a request has no answer */
  const ask = (request: Buffer, patienceMs: number) =>
    new Promise<string>((resolve) => {
      const socket = connect(server.port, "127.0.0.1");
      let answer = "";
      const timer = setTimeout(() => socket.end(), patienceMs);
      socket.on("data", (data) => (answer += data.toString("latin1")));
      socket.once("data", () => socket.end());
      socket.on("error", () => {});
      socket.on("close", () => {
        clearTimeout(timer);
        resolve(answer);
      });
      socket.write(request);
    });
  const many = fc.array(requests, { minLength: 40, maxLength: 40 });
  const round = (numRuns: number) =>
    fc.assert(
      fc.asyncProperty(many, async (batch) => {
        const answers = await Promise.all(batch.map((request) => ask(request, 30)));
        for (const answer of answers) assert.ok(answer === "" || statuses.test(answer), answer);
      }),
      { numRuns, endOnFailure: true },
    );
  // Until then code is compiled and buffers find their size.
  await round(60);
  globalThis.gc?.();
  const before = process.memoryUsage.rss();
  await round(200);
  globalThis.gc?.();
  const grownMiB = (process.memoryUsage.rss() - before) / 2 ** 20;
  assert.ok(grownMiB < 64, `RSS has grown by ${grownMiB.toFixed(0)} MiB in 8,000 requests`);
  await until(() => server.connections === 0);
  assert.deepEqual(server.running(), []);
  assert.ok(
    (await readdir(folder)).every((name) => !name.startsWith(".upload-")),
    "no partial file is left",
  );
  assert.match(await ask(Buffer.from("GET /file HTTP/1.1\r\nHost: x\r\n\r\n"), 10_000), /content$/);
});
