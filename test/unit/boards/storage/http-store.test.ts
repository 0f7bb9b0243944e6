import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { openHttpStore } from "../../../../boards/storage/store/http.ts";
import { openStore } from "../../../../boards/storage/store/open-store.ts";
import { openForeignStore } from "../../../../boards/storage/store/foreign.ts";
import { parsePath } from "../../../../boards/storage/store/path.ts";
import { isNotFound, type Store } from "../../../../boards/storage/store/store.ts";

const never = new AbortController().signal;

async function listen(t: TestContext, handle: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(handle).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function read(store: Store, path: string, start = 0): Promise<string> {
  const reader = await store.openReader(parsePath(path));
  let text = "";
  for await (const chunk of reader.chunks(start, never)) text += chunk.toString();
  return text;
}

/** A server of one file that keeps a record of what it was asked. */
function fileServer(content: string, options: { ranges: boolean; truncateAt?: number }) {
  const asked: string[] = [];
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    asked.push(`${request.method} ${request.url} ${request.headers.range ?? ""}`.trim());
    if (request.url?.includes("missing")) return void response.writeHead(404).end();
    if (request.url?.includes("locked")) return void response.writeHead(403).end();
    const range = options.ranges ? /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "") : null;
    const start = range === null ? 0 : Number(range[1]);
    const body = content.slice(start);
    response.writeHead(range === null ? 200 : 206, {
      "content-length": body.length,
      etag: '"1"',
      "content-type": "x/y",
    });
    if (request.method === "HEAD") return void response.end();
    if (options.truncateAt === undefined) return void response.end(body);
    response.write(body.slice(0, options.truncateAt), () => response.destroy());
  };
  return { asked, handle };
}

for (const ranges of [true, false]) {
  test(`http: a file is read from any position of a server ${ranges ? "with" : "without"} ranges`, async (t) => {
    const { asked, handle } = fileServer("0123456789", { ranges });
    const store = openHttpStore({ endpoint: `${await listen(t, handle)}/base/`, root: "/r oot/" });
    t.after(() => store.close?.());
    assert.equal(await read(store, "a b/ü%.img"), "0123456789");
    assert.equal(await read(store, "a b/ü%.img", 7), "789");
    assert.equal(await read(store, "a b/ü%.img", 10), "");
    assert.equal(asked[0], "HEAD /base/r%20oot/a%20b/%C3%BC%25.img");
    assert.equal(asked.at(-2), "GET /base/r%20oot/a%20b/%C3%BC%25.img bytes=7-9");
    const stat = await store.stat(parsePath("x"));
    assert.deepEqual([stat.content_length, stat.etag, stat.content_type], [10, '"1"', "x/y"]);
    assert.equal(stat.mode.entry_is_file, true);
  });
}

test("http: missing, refused and truncated files are errors of their own", async (t) => {
  const { handle } = fileServer("0123456789", { ranges: true, truncateAt: 4 });
  const store = openHttpStore({ endpoint: await listen(t, handle) });
  t.after(() => store.close?.());
  await assert.rejects(store.stat(parsePath("missing")), isNotFound);
  await assert.rejects(store.stat(parsePath("locked")), { category: "failed", message: /403/ });
  await assert.rejects(read(store, "file"));
  assert.ok(!("openWriter" in store) && !("list" in store));
});

test("http: redirects are followed, and the password stays with its origin", async (t) => {
  const seen: (string | undefined)[] = [];
  const other = await listen(t, (request, response) => {
    seen.push(request.headers.authorization);
    response.writeHead(200, { "content-length": 2 }).end("ok");
  });
  const endpoint = await listen(t, (request, response) => {
    seen.push(request.headers.authorization);
    const location = request.url === "/a" ? "/b" : request.url === "/loop" ? "/loop" : `${other}/c`;
    response.writeHead(302, { location }).end();
  });
  const store = openHttpStore({ endpoint, username: "me", password: "secret" });
  t.after(() => store.close?.());
  assert.equal(await read(store, "a"), "ok");
  const basic = `Basic ${Buffer.from("me:secret").toString("base64")}`;
  assert.deepEqual(seen.slice(0, 3), [basic, basic, undefined]);
  await assert.rejects(store.stat(parsePath("loop")), { category: "failed" });
  assert.equal(store.capability.presign, false, "a presigned request would need the password");
  await assert.rejects(async () => store.presign?.("read", parsePath("a"), 1), { category: "failed" });
});

test("http: presigned requests are plain URLs", async (t) => {
  const store = openHttpStore({ endpoint: "http://invalid.invalid" });
  t.after(() => store.close?.());
  assert.deepEqual(await store.presign?.("read", parsePath("test"), 100), {
    url: "http://invalid.invalid/test",
    method: "GET",
    headers: {},
  });
  assert.equal((await store.presign?.("stat", parsePath("/a b/"), 100))?.url, "http://invalid.invalid/a%20b/");
  await assert.rejects(async () => store.presign?.("write", parsePath("test"), 100), { category: "failed" });
});

test("http: a server that hangs up on a kept connection is asked again", async (t) => {
  let answers = 0;
  const endpoint = await listen(t, (request, response) => {
    answers += 1;
    if (answers === 2) return void request.socket.resetAndDestroy();
    response.writeHead(200, { "content-length": 0 }).end();
  });
  const store = openHttpStore({ endpoint });
  t.after(() => store.close?.());
  await store.stat(parsePath("a"));
  await new Promise((resolve) => setImmediate(resolve));
  await store.stat(parsePath("b"));
  assert.equal(answers, 3);
});

test("what a scheme lacks and what cannot be opened is said when the driver opens", async () => {
  const open = (scheme: string, options: Record<string, string>) => openStore(scheme, options, () => {});
  await assert.rejects(open("fs", {}), { code: "E_CONFIG", message: /root/ });
  await assert.rejects(open("http", { endpoint: "ftp://x" }), { code: "E_CONFIG", message: /endpoint/ });
  const anonymous = open("s3", { bucket: "b", disable_config_load: "true" });
  await assert.rejects(anonymous, { code: "E_CONFIG", message: /credentials/ });
  await assert.rejects(openForeignStore("gdrive", {}, "opendal-is-not-installed"), {
    code: "E_CONFIG",
    message: /gdrive needs the npm package opendal/,
  });
});
