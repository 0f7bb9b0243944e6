import assert from "node:assert/strict";
import { mkdir, readdir, rm } from "node:fs/promises";
import { connect } from "node:net";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
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

interface Mutation {
  readonly how: "flip" | "insert" | "remove" | "repeat" | "cut";
  readonly at: number;
  readonly length: number;
  readonly byte: number;
}

function mutate(bytes: Buffer, { how, at, length, byte }: Mutation): Buffer {
  const [before, piece, after] = [bytes.subarray(0, at), bytes.subarray(at, at + length), bytes.subarray(at + length)];
  switch (how) {
    case "flip":
      return Buffer.concat([before, piece.map((one) => one ^ byte), after]);
    case "insert":
      return Buffer.concat([before, Buffer.alloc(length, byte), piece, after]);
    case "remove":
      return Buffer.concat([before, after]);
    case "repeat":
      return Buffer.concat([before, piece, piece, after]);
    case "cut":
      return before;
  }
}

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
        mutations: fc.array(
          fc.record({
            how: fc.constantFrom("flip", "insert", "remove", "repeat", "cut"),
            at: fc.nat(200),
            length: fc.integer({ min: 1, max: 20 }),
            byte: fc.integer({ min: 1, max: 255 }),
          }),
          { maxLength: 4 },
        ),
      })
      .map(({ method, target, version, headers, body, mutations }) => {
        const whole = `${[`${method} ${target} ${version}`, ...headers].join("\r\n")}\r\n\r\n${body}`;
        return mutations.reduce(mutate, Buffer.from(whole));
      }),
  },
);

/** What is held by something, and does not only wait for the garbage collector. */
async function held(): Promise<{ memoryBytes: number; files: number }> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  // What sockets hold goes in the turn after they are closed.
  for (let turn = 0; turn < 3; turn += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    collect();
  }
  const { heapUsed, external } = process.memoryUsage();
  return { memoryBytes: heapUsed + external, files: (await readdir("/proc/self/fd")).length };
}

const statuses = /^HTTP\/1\.1 (100|200|201|206|304|400|403|404|405|409|411|412|413|415|416|417|431|505|507) /;

test("a live HTTP server survives any requests, with documented answers only and in flat memory", async (t) => {
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
  const before = await held();
  await round(200);
  await until(() => server.connections === 0);
  assert.deepEqual(server.running(), []);
  const after = await held();
  const grownKiB = (after.memoryBytes - before.memoryBytes) / 1024;
  t.diagnostic(`10,400 requests; the last 8,000 have left ${grownKiB.toFixed(0)} KiB`);
  assert.ok(grownKiB < 2_048, `${grownKiB.toFixed(0)} KiB are left of 8,000 requests`);
  assert.equal(after.files, before.files);
  assert.ok(
    (await readdir(folder)).every((name) => !name.startsWith(".upload-")),
    "no partial file is left",
  );
  assert.match(await ask(Buffer.from("GET /file HTTP/1.1\r\nHost: x\r\n\r\n"), 10_000), /content$/);
});
