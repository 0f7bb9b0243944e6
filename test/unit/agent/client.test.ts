import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import http2 from "node:http2";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import zlib from "node:zlib";
import { parseAddress } from "../../../agent/client/address.ts";
import { connect } from "../../../agent/client/connect.ts";
import { buildTree, type DriverReport, type ReportedNode } from "../../../agent/client/report.ts";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { defineInterface, streaming, unary } from "../../../agent/driver/interface.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { serve } from "../../../agent/session/server.ts";
import { createDirectSession } from "../../../agent/session/session.ts";
import { power } from "../../../boards/power/interface.ts";
import { serialPort } from "../../../boards/serial/interface.ts";
import * as z from "zod";
import { startExporter } from "../../sim/exporter.ts";
import { createRig, eventually, pattern } from "../../sim/rig.ts";

const mockPower = { type: "jumpstarter_driver_power.driver.MockPower" };

/** A connected client of an exporter with one rig and a second name for it. */
async function start(t: TestContext) {
  const rig = createRig();
  const { socketPath } = await startExporter(
    t,
    { rig: rig.entry, box: { children: { same: { ref: "rig" } } } },
    { catalog: rig.catalog, motd: "hello" },
  );
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = client.find("rig");
  assert.ok(node);
  return { ...rig, client, node };
}

const code = (expected: AgentError["code"], message: RegExp) => (error: unknown) => {
  assert.equal((error as AgentError).code, expected);
  assert.match((error as AgentError).message, message);
  return true;
};

test("a console whose device goes ends with the reason, after its last bytes", async (t) => {
  const server = createServer((peer) => void peer.on("error", () => {}).end("last words"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const url = `socket://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const serial = { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url } };
  const { socketPath } = await startExporter(t, { serial });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const console = await client.find("serial")?.as(serialPort).connect();
  assert.ok(console);
  let text = "";
  console.on("data", (chunk: Buffer) => (text += chunk.toString()));
  await assert.rejects(once(console, "end"), code("E_CONNECTION", /^serial port socket:.* is gone: it was unplugged/));
  assert.equal(text, "last words");
});

test("a host is a path unless it ends in a port number", () => {
  const unix = (path: string) => ({ kind: "unix", path });
  const tcp = (host: string, port: number) => ({ kind: "tcp", host, port });
  for (const [text, expected] of [
    ["/run/jmp/x.sock", unix("/run/jmp/x.sock")],
    ["unix:///run/x.sock", unix("/run/x.sock")],
    ["/run/odd:name", unix("/run/odd:name")],
    ["lab.example:1234", tcp("lab.example", 1234)],
    ["[::1]:1", tcp("::1", 1)],
    ["lab:0", unix("lab:0")],
    ["lab:65536", unix("lab:65536")],
    [":80", unix(":80")],
  ] as const) {
    assert.deepEqual(parseAddress(text), expected, text);
  }
});

function entry(uuid: string, name?: string, parentUuid?: string): DriverReport {
  return {
    uuid,
    parentUuid,
    labels: name === undefined ? {} : { "jumpstarter.dev/name": name },
    methodsDescription: {},
  };
}

const shape = (node: ReportedNode): unknown => ({
  [node.path || "/"]: node.report.uuid,
  ...(node.children.size > 0 ? { below: [...node.children.values()].map(shape) } : {}),
});

test("an entry hangs below the latest entry before it that has its parent's uuid", () => {
  const tree = buildTree([
    entry("0"),
    entry("1", "a", "0"),
    entry("2", "power", "1"),
    entry("1", "again", "0"),
    entry("2", "power", "1"),
    entry("3", "late", "1"),
  ]);
  assert.deepEqual(shape(tree), {
    "/": "0",
    below: [
      { a: "1", below: [{ "a.power": "2" }] },
      { again: "1", below: [{ "again.power": "2" }, { "again.late": "3" }] },
    ],
  });
});

test("of equal names and of several roots the last counts, a nameless child has the empty name", () => {
  const tree = buildTree([
    entry("0"),
    entry("9"),
    entry("1", "x", "9"),
    entry("2", "x", "9"),
    entry("3", undefined, "9"),
  ]);
  assert.equal(tree.report.uuid, "9");
  assert.deepEqual(
    [...tree.children].map(([name, child]) => [name, child.report.uuid]),
    [
      ["x", "2"],
      ["", "3"],
    ],
  );
});

test("a report without drivers or with an unknown parent is refused", () => {
  assert.throws(() => buildTree([]), /no drivers/);
  assert.throws(() => buildTree([entry("0"), entry("1", "orphan", "7")]), /orphan comes before its parent/);
});

test("typed calls reach a driver under each of its names, and its answers are checked", async (t) => {
  const { socketPath } = await startExporter(t, { power: mockPower, box: { children: { again: { ref: "power" } } } });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const [one, other] = [client.find("power"), client.find("box.again")];
  assert.equal(one?.uuid, other?.uuid);
  assert.equal(client.find("box.nothing.there"), undefined);
  const calls = other?.as(power);
  assert.equal(await calls?.on(), null);
  const readings = [];
  for await (const reading of calls?.read() ?? []) readings.push(reading);
  assert.deepEqual(readings, [
    { voltage: 0, current: 0 },
    { voltage: 5, current: 2 },
  ]);
  const wrong = defineInterface({
    driverType: "power",
    client: "",
    methods: {
      on: unary({ args: [], result: z.string() }),
      read: streaming({ args: [], item: z.object({ watts: z.number() }) }),
    },
  });
  const mistaken = one?.as(wrong);
  await assert.rejects(async () => mistaken?.on(), code("E_RESULT", /power\.on answered/));
  await assert.rejects(
    async () => {
      for await (const reading of mistaken?.read() ?? []) assert.fail(JSON.stringify(reading));
    },
    code("E_RESULT", /power\.read answered/),
  );
});

test("arguments that were left out stay left out, and values survive the wire", async (t) => {
  const { node } = await start(t);
  assert.equal(await node.call("add", [1]), 2);
  assert.equal(await node.call("add", [1, undefined]), 2);
  assert.equal(await node.call("add", [1, 5]), 6);
  assert.deepEqual(await node.call("echo", [{ a: [1, null, "ä"], b: undefined }]), { a: [1, null, "ä"], b: null });
  assert.deepEqual(await node.call("echo", ["x", undefined, "y"]), ["x", null, "y"]);
});

test("failures carry the exporter's words and the code of their status", async (t) => {
  const { node } = await start(t);
  for (const [how, expected, message] of [
    ["invalid", "E_INVALID", /^no such thing$/],
    ["unsupported", "E_UNSUPPORTED", /^rig\.fail failed without a reason/],
    ["timeout", "E_TIMEOUT", /^too slow$/],
    ["refused", "E_CONNECTION", /^\[Errno 111\]/],
    ["missing", "E_IO", /^\[Errno 2\] No such file or directory: '\/x'$/],
    ["plain", "E_FAILED", /^100 % kaputt: ✗\nsecond line$/],
  ] as const) {
    await assert.rejects(node.call("fail", [how]), code(expected, message), how);
  }
  await assert.rejects(node.call("__proto__"), code("E_NO_METHOD", /method __proto__ not found/));
  await assert.rejects(node.stream("echo"), code("E_NO_METHOD", /missing marker marker_streamcall/));
  const items: unknown[] = [];
  await assert.rejects(
    async () => {
      for await (const item of node.streamingCall("items", [2, "timeout"])) items.push(item);
    },
    code("E_TIMEOUT", /too slow/),
  );
  assert.deepEqual(items, [0, 1]);
});

test("a signal cancels calls on the exporter too", async (t) => {
  const { node, state } = await start(t);
  const stop = new AbortController();
  const waiting = node.call("wait", [], { signal: stop.signal });
  await eventually("the call runs", () => state.running === 1);
  stop.abort();
  await assert.rejects(waiting, code("E_CANCELLED", /rig\.wait was cancelled/));
  await eventually("the call was aborted", () => state.running === 0 && state.aborted === 1);
  await assert.rejects(node.call("add", [1], { signal: stop.signal }));
});

test("leaving a loop over items ends the driver's generator", async (t) => {
  const { node, state } = await start(t);
  for await (const item of node.streamingCall("endless")) if (item === 100) break;
  await eventually("the generator has ended", () => state.running === 0);
});

test("a stream keeps message boundaries and ends each direction on its own", async (t) => {
  const { node, state } = await start(t);
  const stream = await node.stream("connect");
  for (const size of [1, 70_000, 3]) stream.write(Buffer.alloc(size, size));
  stream.end();
  const sizes: number[] = [];
  for await (const chunk of stream) sizes.push((chunk as Buffer).length);
  assert.deepEqual(sizes, [1, 70_000, 3]);
  await eventually("the driver's stream is closed", () => state.openStreams === 0);
});

test("destroying a stream closes the driver's; a session that ends breaks the streams of its clients", async (t) => {
  const rig = createRig();
  const exporter = await createExporter({ name: "test", export: { rig: rig.entry }, catalog: rig.catalog });
  t.after(() => exporter.close());
  const served = await serve(createDirectSession(exporter), { host: "127.0.0.1", port: 0 });
  const client = await connect({ host: served.address, insecure: true });
  t.after(() => client.close());
  const node = client.find("rig");
  const first = await node?.stream("source");
  first?.destroy();
  await eventually("the first stream is closed", () => rig.state.openStreams === 0);
  const second = await node?.stream("source");
  assert.ok(second);
  second.resume();
  const broken = once(second, "close");
  await Promise.all([assert.rejects(broken, code("E_CONNECTION", /./)), served.close(0)]);
});

test("a slow reader holds the exporter back", async (t) => {
  const { node, state } = await start(t);
  const stream = await node.stream("source");
  let before = -1;
  // Windows and buffers fill up, then nothing more is taken from the device.
  while (before !== state.taken) {
    before = state.taken;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  assert.ok(before < 128 * 1024 * 1024, `${before} bytes are under way`);
  stream.destroy();
});

const content = Buffer.concat([...pattern(3_000_000)]);
const digest = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const pieces = (bytes: Buffer) =>
  Readable.from(Array.from({ length: 30 }, (_, n) => bytes.subarray(n * 100_000, (n + 1) * 100_000)));

test("a driver reads a lent source completely, or a part of it, or not at all", async (t) => {
  const { node } = await start(t);
  const result = await node.lendSource(pieces(content), (handle) => node.call("read", [handle]));
  assert.deepEqual(result, { bytes: content.length, sha256: digest(content) });
  const source = Readable.from(pattern(2 ** 30));
  await assert.rejects(
    node.lendSource(source, (handle) => node.call("peek", [handle])),
    code("E_IO", /No space left/),
  );
  assert.ok(source.destroyed);
  assert.equal(await node.lendSource(pieces(content), (handle) => node.call("ignore", [handle])), null);
});

test("a lent source that breaks is what the caller hears of", async (t) => {
  const { node } = await start(t);
  const source = new Readable({
    read() {
      this.push(Buffer.alloc(1000));
      this.destroy(new Error("the disk is gone"));
    },
  });
  await assert.rejects(
    node.lendSource(source, (handle) => node.call("read", [handle])),
    /the disk is gone/,
  );
});

test("a lent source that gives nothing does not outlive its call, nor one that was never lent", async (t) => {
  const { node } = await start(t);
  const idle = () => new Readable({ read() {} });
  const unused = idle();
  assert.equal(await node.lendSource(unused, (handle) => node.call("ignore", [handle])), null);
  const unwanted = idle();
  await assert.rejects(
    node.lendSource(unwanted, () => node.call("fail", ["timeout"])),
    code("E_TIMEOUT", /too slow/),
  );
  const signal = AbortSignal.abort();
  const early = idle();
  await assert.rejects(node.lendSource(early, () => assert.fail("nothing was lent"), { signal }));
  const late = collect().sink;
  await assert.rejects(node.lendSink(late, () => assert.fail("nothing was lent"), { signal }));
  assert.ok([unused, unwanted, early, late].every((stream) => stream.destroyed));
});

function collect(): { sink: Writable; bytes: () => Buffer } {
  const chunks: Buffer[] = [];
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk);
      setImmediate(done);
    },
  });
  return { sink, bytes: () => Buffer.concat(chunks) };
}

test("a lent sink has everything when the call is answered", async (t) => {
  const { node } = await start(t);
  const { sink, bytes } = collect();
  await node.lendSink(sink, (handle) => node.call("write", [handle, content.length]));
  assert.equal(digest(bytes()), digest(content));
});

test("a lent sink that fails is what the caller hears of", async (t) => {
  const { node } = await start(t);
  const full = new Writable({ write: (_chunk, _encoding, done) => done(new Error("disk full")) });
  await assert.rejects(
    node.lendSink(full, (handle) => node.call("write", [handle, content.length])),
    /disk full/,
  );
});

test("encoded bytes on this side are plain for the driver, both ways", async (t) => {
  const { node } = await start(t);
  const options = { encoding: "gzip" } as const;
  const packed = zlib.gzipSync(content);
  const result = await node.lendSource(Readable.from([packed]), (handle) => node.call("read", [handle]), options);
  assert.deepEqual(result, { bytes: content.length, sha256: digest(content) });
  const { sink, bytes } = collect();
  await node.lendSink(sink, (handle) => node.call("write", [handle, content.length]), options);
  assert.equal(digest(await promisify(zlib.gunzip)(bytes())), digest(content));
  await assert.rejects(
    node.lendSource(Readable.from([packed.subarray(0, 1000)]), (handle) => node.call("read", [handle]), options),
    /gzip/,
  );
});

test("an answer over 4 MiB is refused on this side", async (t) => {
  const { node } = await start(t);
  await assert.rejects(node.call("give", ["huge"]), code("E_LIMIT", /^CLIENT: Received message larger than max/));
  assert.equal(await node.call("add", [1]), 2);
});

test("log records and the status can be read", async (t) => {
  const { client, node } = await start(t);
  assert.equal(client.exporter.motd, "hello");
  assert.equal((await client.status()).status, 4);
  await node.call("add", [1]);
  for await (const { message, severity } of client.logs()) {
    if (message !== "Operation completed") continue;
    assert.equal(severity, "INFO");
    break;
  }
});

test("over TCP a passphrase and TLS with the exporter's own authority are understood", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "jmp-agent-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  execFileSync(
    "openssl",
    ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"].concat([
      "-subj",
      "/CN=localhost",
      "-addext",
      "subjectAltName=DNS:localhost",
      "-keyout",
      key,
      "-out",
      cert,
    ]),
    { stdio: "ignore" },
  );
  const ca = await readFile(cert, "utf8");
  const exporter = await createExporter({ name: "test", export: { power: mockPower } });
  t.after(() => exporter.close());
  const tls = { cert: ca, key: await readFile(key, "utf8") };
  const served = await serve(createDirectSession(exporter), {
    host: "127.0.0.1",
    port: 0,
    tls,
    passphrase: "correct horse",
  });
  t.after(() => served.close(0));
  const host = `localhost:${served.port ?? 0}`;
  const client = await connect({ host, ca, passphrase: "correct horse" });
  assert.equal(await client.find("power")?.as(power).on(), null);
  await client.close();
  await assert.rejects(connect({ host, ca, passphrase: "wrong" }), code("E_UNAUTHENTICATED", /passphrase/));
  await assert.rejects(connect({ host, ca }), code("E_UNAUTHENTICATED", /passphrase/));
  await assert.rejects(connect({ host, passphrase: "correct horse" }), code("E_CONNECTION", /self-signed/));
  await assert.rejects(connect({ host, insecure: true }), code("E_CONNECTION", /no exporter answers/));
});

test("an address where nobody or somebody else answers is named", async (t) => {
  await assert.rejects(
    connect({ host: "/nonexistent/socket" }),
    code("E_CONNECTION", /no exporter answers at \/nonexistent\/socket: .*No such file/),
  );
  const stranger = http2.createServer((_request, response) => response.writeHead(404).end("what?"));
  stranger.listen(0, "127.0.0.1");
  await once(stranger, "listening");
  t.after(() => stranger.close());
  const { port } = stranger.address() as { port: number };
  await assert.rejects(
    connect({ host: `127.0.0.1:${port}`, insecure: true }),
    code("E_CONNECTION", /does not speak gRPC \(HTTP status 404\)/),
  );
});

test("a connection that was lost is made again by the next call", async (t) => {
  const rig = createRig();
  const exporter = await createExporter({ name: "test", export: { rig: rig.entry }, catalog: rig.catalog });
  t.after(() => exporter.close());
  const first = await serve(createDirectSession(exporter), { host: "127.0.0.1", port: 0 });
  const port = first.port ?? 0;
  const client = await connect({ host: first.address, insecure: true });
  t.after(() => client.close());
  const waiting = client.find("rig")?.call("wait");
  await eventually("the call runs", () => rig.state.running === 1);
  await Promise.all([assert.rejects(async () => waiting), first.close(0)]);
  await assert.rejects(async () => client.find("rig")?.call("add", [1]), code("E_CONNECTION", /refused/));
  const second = await serve(createDirectSession(exporter), { host: "127.0.0.1", port });
  t.after(() => second.close(0));
  assert.equal(await client.find("rig")?.call("add", [1]), 2);
});

test("both directions of a stream may be full at once", async (t) => {
  const { node } = await start(t);
  const stream = await node.stream("bytes");
  const received = buffer(stream);
  for (let at = 0; at < content.length; at += 50_000) {
    if (!stream.write(content.subarray(at, at + 50_000))) await once(stream, "drain");
  }
  stream.end();
  assert.equal(digest(await received), digest(content));
});
