import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { buffer, text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { presignedSink, presignedSource } from "../../../agent/stream/presigned.ts";

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

async function listen(t: TestContext, handle: Handler): Promise<string> {
  const server = createServer(handle);
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const never = new AbortController().signal;
const get = (url: string, headers: Record<string, string> = {}, timeoutMs = 10_000) =>
  presignedSource({ method: "GET", url, headers }, never, { timeoutMs });

test("a GET sends the URL as it came and follows redirects, relative ones too", async (t) => {
  const asked: string[] = [];
  const base = await listen(t, ({ url = "" }, response) => {
    asked.push(url);
    if (url.startsWith("/a%40b/x")) response.writeHead(302, { location: "next%20one?sig=a%2Bb" }).end();
    else if (url.includes("next")) response.writeHead(307, { location: "/final" }).end();
    else response.end("content");
  });
  assert.equal(await text(await get(`${base}/a%40b/x?sig=%7e~%2F/+`)), "content");
  assert.deepEqual(asked, ["/a%40b/x?sig=%7e~%2F/+", "/a%40b/next%20one?sig=a%2Bb", "/final"]);
});

test("credentials do not follow a redirect to another origin", async (t) => {
  const secrets = { Authorization: "a", Cookie: "c", "X-Amz-Date": "d", "x-ms-blob": "m", "x-goog-x": "g", plain: "p" };
  const seen: string[][] = [];
  const note = (request: IncomingMessage) =>
    seen.push(Object.keys(request.headers).filter((name) => /auth|cookie|^x-|plain/.test(name)));
  const other = await listen(t, (request, response) => {
    note(request);
    response.end("x");
  });
  const base = await listen(t, (request, response) => {
    note(request);
    response.writeHead(303, { location: request.url === "/1" ? "/2" : other }).end();
  });
  assert.equal(await text(await get(`${base}/1`, secrets)), "x");
  const all = ["authorization", "cookie", "x-amz-date", "x-ms-blob", "x-goog-x", "plain"];
  assert.deepEqual(seen, [all, all, ["plain"]]);
});

test("what goes wrong is told without the query of the URL", async (t) => {
  const base = await listen(t, ({ url = "" }, response) => {
    if (url.startsWith("/404")) response.writeHead(404, "Not Found").end("no");
    else if (url.startsWith("/loop")) response.writeHead(301, { location: "/loop?secret" }).end();
    else if (url.startsWith("/lost")) response.writeHead(302).end();
    else if (url.startsWith("/cut")) {
      response.writeHead(200, { "content-length": 100 });
      response.write("half", () => response.destroy());
    } else response.write("stalled");
  });
  const fails = (url: string, code: string, message: string | RegExp) =>
    assert.rejects(
      get(url).then((body) => buffer(body)),
      { code, message },
    );
  const safe = (path: string) => `${base}${path}?[REDACTED]`;
  await fails(
    `${base}/404?secret`,
    "E_FAILED",
    `Presigned HTTP GET request failed: status=404, reason='Not Found', url=${safe("/404")}`,
  );
  await fails(`${base}/loop?secret`, "E_FAILED", `Too many redirects (10) for ${safe("/loop")}`);
  await fails(
    `${base}/lost?secret`,
    "E_FAILED",
    `Presigned HTTP GET redirect missing Location header for ${safe("/lost")}`,
  );
  await fails(`${base}/cut?secret`, "E_FAILED", /^Presigned HTTP GET stream failed \(connection\/read error\) for /);
  await fails("http://127.0.0.1:1/x?secret", "E_FAILED", /x\?\[REDACTED\]: ECONNREFUSED: /);
  await fails("ftp://127.0.0.1/x?secret", "E_INVALID", "not an HTTP URL: ftp://127.0.0.1/x?[REDACTED]");
  const stalled = await get(`${base}/stall?secret`, {}, 200);
  await assert.rejects(buffer(stalled), {
    code: "E_TIMEOUT",
    message: `Presigned HTTP GET request timed out after 0.2s for ${safe("/stall")}`,
  });
});

test("a body that the server compressed by itself is the plain file", async (t) => {
  const base = await listen(t, (_request, response) => {
    response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync("content"));
  });
  assert.equal(await text(await get(base)), "content");
});

test("a PUT uploads what is written and finishes when the server has it", async (t) => {
  let received = "";
  const base = await listen(t, (request, response) => {
    if (request.url === "/full") return void response.writeHead(507, "Insufficient Storage").end();
    void text(request).then((body) => {
      received = `${request.method} ${request.headers["content-type"]} ${body}`;
      response.end();
    });
  });
  const put = (path: string) =>
    presignedSink({ method: "PUT", url: base + path, headers: { "content-type": "x/y" } }, never);
  await pipeline(Readable.from([Buffer.from("one "), Buffer.from("two")]), put("/"));
  assert.equal(received, "PUT x/y one two");
  await assert.rejects(pipeline(Readable.from([Buffer.from("x")]), put("/full")), {
    message: `Presigned HTTP PUT request failed: status=507, reason='Insufficient Storage', url=${base}/full`,
  });
});

test("a cancelled call ends its transfer", async (t) => {
  const base = await listen(t, (_request, response) => void response.write("stalled"));
  const abort = new AbortController();
  const body = await presignedSource({ method: "GET", url: base, headers: {} }, abort.signal);
  const read = buffer(body);
  abort.abort();
  await assert.rejects(read, { code: "E_CANCELLED" });
});
