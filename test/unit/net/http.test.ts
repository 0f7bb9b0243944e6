import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFile, utimes, writeFile } from "node:fs/promises";
import { request, type IncomingHttpHeaders } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { select, targetPath, type Headers } from "../../../net/http/protocol.ts";
import { startHttp } from "../../sim/http.ts";
import { folderWith, until } from "../../sim/tftp.ts";

function ask(
  port: number,
  path: string,
  headers: Record<string, string> = {},
  method = "GET",
): Promise<{ status: number; headers: IncomingHttpHeaders; body: Buffer }> {
  return new Promise((resolve, reject) => {
    request({ host: "127.0.0.1", port, path, headers, method, agent: false }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }),
      );
    })
      .on("error", reject)
      .end();
  });
}

const content = randomBytes(2_000_000);

test("GET and HEAD of a file, and what is not served", async (t) => {
  const root = await folderWith(t, { "image.raw.gz": content, "image.raw": "plain", empty: "" });
  const { port } = await startHttp(t, root);

  const whole = await ask(port, "/image.raw.gz", { "Accept-Encoding": "gzip" });
  assert.equal(whole.status, 200);
  assert.ok(whole.body.equals(content));
  assert.equal(whole.headers["content-length"], "2000000");
  assert.equal(whole.headers["accept-ranges"], "bytes");
  assert.equal(whole.headers["content-encoding"], undefined);

  // A compressed sibling is another file.
  const plain = await ask(port, "/image.raw", { "Accept-Encoding": "gzip" });
  assert.equal(plain.body.toString(), "plain");
  assert.equal(plain.headers["content-encoding"], undefined);

  const head = await ask(port, "/image.raw.gz", {}, "HEAD");
  assert.deepEqual(
    { status: head.status, length: head.headers["content-length"], body: head.body.length },
    { status: 200, length: "2000000", body: 0 },
  );
  assert.deepEqual(head.headers.etag, whole.headers.etag);

  const empty = await ask(port, "/empty");
  assert.deepEqual([empty.status, empty.headers["content-length"], empty.body.length], [200, "0", 0]);

  for (const [path, status, method] of [
    ["/", 403, "GET"],
    ["/nowhere", 404, "GET"],
    ["/nowhere", 404, "HEAD"],
    ["/image.raw/", 404, "GET"],
    ["/../etc/passwd", 403, "GET"],
    ["/%", 400, "GET"],
    ["/image.raw", 405, "PUT"],
    ["/image.raw", 405, "DELETE"],
    ["/image.raw", 405, "OPTIONS"],
    ["/image.raw", 405, "POST"],
  ] as const) {
    const answer = await ask(port, path, {}, method);
    assert.equal(answer.status, status, `${method} ${path}`);
    if (status === 405) assert.equal(answer.headers.allow, "GET, HEAD");
    assert.ok(!answer.body.includes(root));
  }
  assert.equal((await readFile(join(root, "image.raw"))).toString(), "plain");
});

test("ranges", async (t) => {
  const root = await folderWith(t, { file: content, empty: "" });
  const { port } = await startHttp(t, root);
  const size = content.length;
  for (const [range, status, first, last] of [
    ["bytes=0-0", 206, 0, 0],
    ["bytes=0-", 206, 0, size - 1],
    ["bytes=5-9", 206, 5, 9],
    ["bytes=1999999-", 206, size - 1, size - 1],
    ["bytes=100-99999999999", 206, 100, size - 1],
    ["bytes=-5", 206, size - 5, size - 1],
    ["bytes=-99999999", 206, 0, size - 1],
    ["BYTES=5-9", 206, 5, 9],
    ["bytes=2000000-", 416, 0, 0],
    ["bytes=-0", 416, 0, 0],
    // What is no single range of bytes is answered by the whole.
    ["bytes=9-5", 200, 0, size - 1],
    ["bytes=-", 200, 0, size - 1],
    ["bytes=a-b", 200, 0, size - 1],
    ["bytes=0-1,2-6", 206, 0, 6],
    ["bytes=5-9,0-7,", 206, 0, 9],
    ["bytes=0-1,2000000-", 206, 0, 1],
    ["bytes=2000000-,3000000-", 416, 0, 0],
    [`bytes=${"0-0,".repeat(33)}`, 200, 0, size - 1],
    ["lines=0-1", 200, 0, size - 1],
  ] as const) {
    const answer = await ask(port, "/file", { Range: range });
    assert.equal(answer.status, status, range);
    if (status === 416) assert.equal(answer.headers["content-range"], `bytes */${size}`);
    else assert.ok(answer.body.equals(content.subarray(first, last + 1)), range);
    if (status === 206) assert.equal(answer.headers["content-range"], `bytes ${first}-${last}/${size}`);
  }
  assert.equal((await ask(port, "/empty", { Range: "bytes=0-0" })).status, 416);
  assert.equal((await ask(port, "/file", { Range: "bytes=0-0" }, "HEAD")).status, 200);
});

test("several ranges come as the parts of one body, in the order that was asked for", async (t) => {
  const root = await folderWith(t, { file: content });
  const { port } = await startHttp(t, root);
  const size = content.length;
  const { status, headers, body } = await ask(port, "/file", { Range: "bytes=100-199, 0-0, -3, 700000-1399999" });
  assert.equal(status, 206);
  assert.equal(headers["content-length"], String(body.length));
  assert.equal(headers["content-range"], undefined);
  const boundary = /^multipart\/byteranges; boundary=(\S+)$/.exec(headers["content-type"] ?? "")?.[1] ?? "";
  const parts: [range: string, bytes: Buffer][] = [];
  let rest = body;
  for (;;) {
    const start = Buffer.from(`\r\n--${boundary}`);
    assert.ok(rest.subarray(0, start.length).equals(start));
    rest = rest.subarray(start.length);
    if (rest.subarray(0, 4).toString() === "--\r\n") break;
    const end = rest.indexOf("\r\n\r\n");
    const [, range = "", first, last] =
      /Content-Range: bytes ((\d+)-(\d+)\/\d+)/.exec(rest.subarray(0, end).toString()) ?? [];
    const length = Number(last) - Number(first) + 1;
    parts.push([range, rest.subarray(end + 4, end + 4 + length)]);
    rest = rest.subarray(end + 4 + length);
  }
  assert.deepEqual(
    parts.map(([range]) => range),
    [`100-199/${size}`, `0-0/${size}`, `${size - 3}-${size - 1}/${size}`, `700000-1399999/${size}`],
  );
  const wanted = [
    content.subarray(100, 200),
    content.subarray(0, 1),
    content.subarray(-3),
    content.subarray(700_000, 1_400_000),
  ];
  assert.ok(Buffer.concat(parts.map(([, bytes]) => bytes)).equals(Buffer.concat(wanted)));
});

test("conditions: what has not changed is not sent, and a range of something else is the whole", async (t) => {
  const root = await folderWith(t, { file: "0123456789" });
  const modified = new Date("2026-01-02T03:04:05.678Z");
  await utimes(join(root, "file"), modified, modified);
  const { port } = await startHttp(t, root);
  const { headers } = await ask(port, "/file");
  const etag = headers.etag ?? "";
  assert.match(etag, /^"[^"]+"$/);
  assert.equal(headers["last-modified"], "Fri, 02 Jan 2026 03:04:05 GMT");
  const [same, before, after] = [
    "Fri, 02 Jan 2026 03:04:05 GMT",
    "Fri, 02 Jan 2026 03:04:04 GMT",
    "Fri, 02 Jan 2026 03:04:06 GMT",
  ];
  const cases: [Record<string, string>, number][] = [
    [{ "If-None-Match": etag }, 304],
    [{ "If-None-Match": `"x", W/${etag}` }, 304],
    [{ "If-None-Match": "*" }, 304],
    [{ "If-None-Match": '"x"' }, 200],
    [{ "If-None-Match": '"x"', "If-Modified-Since": same }, 200],
    [{ "If-Modified-Since": same }, 304],
    [{ "If-Modified-Since": before }, 200],
    [{ "If-Modified-Since": "yesterday" }, 200],
    [{ "If-Match": etag }, 200],
    [{ "If-Match": '"x"' }, 412],
    [{ "If-Match": `W/${etag}` }, 412],
    [{ "If-Unmodified-Since": before }, 412],
    [{ "If-Unmodified-Since": after }, 200],
    [{ Range: "bytes=1-2", "If-Range": etag }, 206],
    [{ Range: "bytes=1-2", "If-Range": '"x"' }, 200],
    [{ Range: "bytes=1-2", "If-Range": `W/${etag}` }, 200],
    [{ Range: "bytes=1-2", "If-Range": same }, 206],
    [{ Range: "bytes=1-2", "If-Range": before }, 200],
    [{ Range: "bytes=1-2", "If-None-Match": etag }, 304],
  ];
  for (const [given, status] of cases) {
    const answer = await ask(port, "/file", given);
    assert.equal(answer.status, status, JSON.stringify(given));
    if (status === 304) assert.equal(answer.body.length, 0);
  }
  await writeFile(join(root, "file"), "changed...");
  assert.notEqual((await ask(port, "/file")).headers.etag, etag);
});

test("request targets are decoded once and not normalised", () => {
  for (const [target, path] of [
    ["/a%20b?x#y", "/a b"],
    ["/%252e", "/%2e"],
    ["/../x", "/../x"],
    ["http://host:1/x", "/x"],
    ["http://host", "/"],
    ["/%", undefined],
    ["/%00", undefined],
    ["*", undefined],
    ["", "/"],
  ] as const) {
    assert.equal(targetPath(target), path, target);
  }
  const file = { sizeBytes: 0, etag: '"e"', modified: new Date(0) };
  const headers: Headers = { range: "bytes=-5" };
  assert.deepEqual(select("GET", headers, file), { status: 416 });
});

test("one connection serves many requests, also pipelined ones", async (t) => {
  const { port } = await startHttp(t, await folderWith(t, { a: "AAAA", b: "BBBB" }));
  const socket = connect(port, "127.0.0.1");
  t.after(() => socket.destroy());
  let text = "";
  socket.on("data", (data) => (text += data.toString()));
  socket.write("GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  await once(socket, "close");
  assert.match(text, /AAAA[^]*BBBB/);
});

test("stop frees the port at once and cuts a running download", async (t) => {
  const root = await folderWith(t, { big: Buffer.alloc(64 << 20) });
  const first = await startHttp(t, root);
  const socket = connect(first.port, "127.0.0.1");
  t.after(() => socket.destroy());
  const closed = once(socket, "close");
  socket.on("error", () => {});
  socket.write("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
  await once(socket, "readable");
  first.stop();
  const second = await startHttp(t, root, { port: first.port });
  assert.equal((await ask(second.port, "/big", { Range: "bytes=0-0" })).status, 206);
  socket.resume();
  await closed;
  assert.ok(socket.bytesRead < 64 << 20);
  first.stop();
  await until(() => first.connections === 0);
});

test("a port that is taken is told, and leaves nothing bound", async (t) => {
  const root = await folderWith(t);
  const { port } = await startHttp(t, root);
  await assert.rejects(startHttp(t, root, { port }), {
    code: "E_IO",
    message: `port already in use: 127.0.0.1:${port}`,
  });
  await assert.rejects(startHttp(t, root, { hosts: ["127.0.0.2", "127.0.0.1"], port }), { code: "E_IO" });
  const both = await startHttp(t, root, { hosts: ["127.0.0.2", "::1"], port });
  assert.equal(both.port, port);
});

/** Asks for a file and never reads it. @returns whether the server has cut the connection */
function ignore(t: TestContext, port: number, localAddress?: string): () => boolean {
  const socket = connect({ port, host: "127.0.0.1", ...(localAddress === undefined ? {} : { localAddress }) });
  t.after(() => socket.destroy());
  let isCut = false;
  socket.on("error", () => {}).on("close", () => (isCut = true));
  socket.write("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
  socket.pause();
  return () => isCut;
}

test("a download that hardly moves is cut", async (t) => {
  const root = await folderWith(t, { big: Buffer.alloc(64 << 20) });
  const server = await startHttp(t, root, { limits: { stallMs: 200 } });
  ignore(t, server.port);
  await until(() => server.running().length === 1);
  const [running] = server.running();
  assert.deepEqual(
    { ...running, peer: "", movedBytes: 0, startedMs: 0 },
    {
      protocol: "http",
      view: "test",
      peer: "",
      name: "/big",
      direction: "to-board",
      sizeBytes: 64 << 20,
      movedBytes: 0,
      startedMs: 0,
    },
  );
  await until(() => server.connections === 0);
  assert.deepEqual(server.running(), []);
});

test("a board that has all its connections gives up one that waits, and none that works", async (t) => {
  const root = await folderWith(t, { big: Buffer.alloc(64 << 20) });
  const server = await startHttp(t, root, { limits: { connectionsPerPeer: 2 } });
  const working = ignore(t, server.port);
  const waiting = connect(server.port, "127.0.0.1");
  t.after(() => waiting.destroy());
  const gaveUp = once(waiting, "close");
  waiting.on("error", () => {}).resume();
  await until(() => server.connections === 2);
  const second = ignore(t, server.port);
  await gaveUp;
  await until(() => server.running().length === 2);
  const refused = ignore(t, server.port);
  await once(
    connect(server.port, "127.0.0.1")
      .on("error", () => {})
      .resume(),
    "close",
  );
  assert.deepEqual([working(), second(), server.running().length], [false, false, 2]);
  assert.equal(refused(), false, "a client that does not read does not see it");
  // Later, both have stood still, and the one that has done so for longer goes.
  await until(() => server.connections === 2);
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  assert.equal((await ask(server.port, "/big", { Range: "bytes=0-0" })).status, 206);
  await until(() => server.connections === 1);
});

test("a board that has fewer connections than another gets one, however busy the view is", async (t) => {
  const root = await folderWith(t, { big: Buffer.alloc(64 << 20) });
  const server = await startHttp(t, root, { limits: { connections: 4 } });
  for (let index = 0; index < 4; index += 1) ignore(t, server.port, "127.0.0.2");
  await until(() => server.running().length === 4);
  assert.equal((await ask(server.port, "/big", { Range: "bytes=0-0" })).status, 206);
});

test("requests that are sent ahead are answered one after the other, and too many end the connection", async (t) => {
  const root = await folderWith(t, { big: Buffer.alloc(64 << 20) });
  const server = await startHttp(t, root);
  const socket = connect(server.port, "127.0.0.1");
  t.after(() => socket.destroy());
  const closed = once(socket, "close");
  socket.on("error", () => {}).pause();
  const before = process.memoryUsage().external;
  socket.write("GET /big HTTP/1.1\r\nHost: x\r\n\r\n".repeat(60));
  await until(() => server.running().length === 1);
  assert.ok(process.memoryUsage().external - before < 16 << 20);
  socket.write("GET /big HTTP/1.1\r\nHost: x\r\n\r\n".repeat(60));
  socket.resume();
  await closed;
  await until(() => server.connections === 0);
});

test("curl resumes a download", async (t) => {
  const root = await folderWith(t, { file: content });
  const target = await folderWith(t, { got: content.subarray(0, 700_000) });
  const { port } = await startHttp(t, root);
  const run = promisify(execFile);
  const missing = await run("curl", ["--version"]).then(() => false, () => true); // prettier-ignore
  if (missing) return t.skip("curl is not installed");
  await run("curl", ["-sSf", "-C", "-", "-o", join(target, "got"), `http://127.0.0.1:${port}/file`]);
  assert.ok((await readFile(join(target, "got"))).equals(content));
});
