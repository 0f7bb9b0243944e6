import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, type Duplex } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import { createExporter } from "../../../../agent/session/exporter.ts";
import driver from "../../../../boards/video/driver.ts";
import { video } from "../../../../boards/video/interface.ts";
import { FirstPart } from "../../../../boards/video/multipart.ts";
import { isPicture, pictureSize } from "../../../../boards/video/protocol.ts";
import { rewriteRequestHead } from "../../../../boards/video/request-head.ts";
import { startCamera } from "../../../sim/camera.ts";
import { createAuthority } from "../../../sim/certificates.ts";
import { bottomBright, leftBright, smallPng } from "../../../sim/pictures.ts";

const entry = (config: Record<string, unknown>) => ({ type: "jumpstarter_driver_video.driver.HttpVideo", config });

async function cameraOf(t: TestContext, config: Record<string, unknown>) {
  const exporter = await createExporter({ name: "test", export: { camera: entry({ timeout: 2, ...config }) } });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe(({ message }) => log.push(message));
  const calls = (signal?: AbortSignal) => exporter.calls("camera", video, signal === undefined ? {} : { signal });
  return { calls, log };
}

const base64 = leftBright.toString("base64");

/** The client's half of the tunnel, by the contract: a request in HTTP/1.1 without credentials, for localhost. */
const ask = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n`;

/** Reads until there is a whole frame. */
async function readFrame(stream: Duplex): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    if (Buffer.concat(chunks).includes(leftBright)) break;
  }
  return Buffer.concat(chunks).toString("latin1");
}

test("pictures come from the stream, or from a page of their own", async (t) => {
  const camera = await startCamera(t);
  const stream = await cameraOf(t, { url: `${camera.origin}/stream` });
  assert.equal(await stream.calls().snapshot(), base64);
  const plain = await cameraOf(t, { url: `${camera.origin}/stream?plain` });
  assert.equal(await plain.calls().snapshot(), base64);
  const page = await cameraOf(t, { url: `${camera.origin}/stream`, snapshot_url: `${camera.origin}/snapshot` });
  camera.picture = bottomBright;
  assert.equal(await page.calls().snapshot(), bottomBright.toString("base64"));
  assert.deepEqual(await page.calls().state(), { online: true, width: 48, height: 32, fps: null });
  assert.deepEqual(camera.requests, ["GET /stream", "GET /stream?plain", "GET /snapshot", "GET /snapshot"]);
  // A stream that was read for one picture is not left open.
  while (camera.connections.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});

test("the tunnel carries the stream, in chunks or without an end", async (t) => {
  const camera = await startCamera(t);
  const { calls } = await cameraOf(t, { url: `${camera.origin}/stream?user=1` });
  assert.equal(await calls().stream_path(), "/stream?user=1");
  const chunked = await calls().connect();
  chunked.write(ask("/stream"));
  assert.match(await readFrame(chunked), /^HTTP\/1\.1 200 OK\r\n[^]*transfer-encoding: chunked/i);
  const plain = await calls().connect();
  plain.write(ask("/stream?plain"));
  assert.doesNotMatch(await readFrame(plain), /transfer-encoding/i);
  const bare = await cameraOf(t, { url: camera.origin });
  assert.equal(await bare.calls().stream_path(), "/");
  while (camera.connections.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});

test("a camera with a password and a name gets both from us; neither is in a text", async (t) => {
  const camera = await startCamera(t, { password: "op:s3cret/%", virtualHost: "localhost:1" });
  const url = `http://op:s3cret%2F%@localhost:${camera.port}/stream?token=t0ken`;
  const strict = await startCamera(t, { password: "op:s3cret/%" });
  const named = await startCamera(t, { virtualHost: `127.0.0.1:${strict.port}` });
  const { calls } = await cameraOf(t, { url: `http://op:s3cret%2F%@127.0.0.1:${strict.port}/stream` });
  assert.equal(await calls().snapshot(), base64);
  const stream = await calls().connect();
  stream.write(ask("/stream"));
  assert.match(await readFrame(stream), /^HTTP\/1\.1 200 OK/);
  assert.equal(named.requests.length, 0);

  const wrong = await cameraOf(t, { url });
  await assert.rejects(wrong.calls().snapshot(), (error: Error & { code: string }) => {
    assert.equal(error.code, "E_IO");
    assert.equal(error.message, `http://localhost:${camera.port}/stream?[REDACTED] answered 404`);
    return true;
  });
  assert.equal((await wrong.calls().state()).online, false);
  assert.doesNotMatch(wrong.log.join(), /s3cret|t0ken/);
  assert.match(wrong.log.join(), /offline: http:\/\/localhost/);
});

test("the Host of the tunnel is the camera's", async (t) => {
  const heard: Buffer[] = [];
  const server = createServer((socket: Socket) => {
    socket.on("error", () => {}).on("data", (data: Buffer) => heard.push(data));
    socket.on("end", () => socket.end());
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const { calls } = await cameraOf(t, { url: `http://localhost:${port}/mjpg` });
  const stream = await calls().connect();
  stream.write("GET /mjpg HT");
  stream.write("TP/1.1\r\nX: 1\r\nhost : localhost\r\n\r\nHost: body\r\n\r\n");
  stream.end();
  stream.resume();
  await once(stream, "end");
  assert.equal(
    Buffer.concat(heard).toString(),
    `GET /mjpg HTTP/1.1\r\nHost: localhost:${port}\r\nX: 1\r\n\r\nHost: body\r\n\r\n`,
  );
});

test("https with the camera's authority; without it, the camera is not believed", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "jmp-camera-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const authority = await createAuthority(folder);
  const camera = await startCamera(t, { tls: await authority.serverCertificate() });
  const tls_ca = join(folder, "authority.pem");
  writeFileSync(tls_ca, authority.certificate);
  const { calls } = await cameraOf(t, { url: `${camera.origin}/stream`, tls_ca });
  assert.equal(await calls().snapshot(), base64);
  const stream = await calls().connect();
  stream.write(ask("/stream"));
  assert.match(await readFrame(stream), /^HTTP\/1\.1 200 OK/);
  const named = await cameraOf(t, { url: `https://localhost:${camera.port}/stream`, tls_ca });
  const byName = await named.calls().connect();
  byName.write(ask("/stream"));
  await readFrame(byName);
  assert.deepEqual([...new Set(camera.serverNames)], ["", "localhost"]);

  const stranger = await cameraOf(t, { url: `${camera.origin}/stream` });
  await assert.rejects(stranger.calls().snapshot(), { code: "E_CONNECTION" });
  await assert.rejects(stranger.calls().connect(), { code: "E_CONNECTION", message: /no TLS with https/ });
  const [seen] = (await driver.inspect?.({ url: `${camera.origin}/`, timeout: 1, tls_ca })) ?? [];
  assert.deepEqual(seen, { ok: true, text: `${camera.origin}/ takes connections` });
  const lost = await cameraOf(t, { url: `${camera.origin}/stream`, tls_ca: "/no/ca" });
  await assert.rejects(lost.calls().connect(), {
    code: "E_CONFIG",
    message: "tls_ca: [Errno 2] No such file or directory: '/no/ca'",
  });
});

test("what goes wrong is never a picture, and state only says offline", async (t) => {
  const camera = await startCamera(t);
  const url = `${camera.origin}/stream`;
  const { calls } = await cameraOf(t, { url, timeout: 0.3 });
  const fails = async (code: string, message: RegExp | string, state = { online: false }) => {
    await assert.rejects(calls().snapshot(), { code, message });
    assert.equal((await calls().state()).online, state.online);
  };
  camera.trouble = (_, response) => response.writeHead(401).end("go away");
  await fails("E_IO", `${url} answered 401`);
  camera.trouble = (_, response) => response.writeHead(503).end("no signal");
  await fails("E_DEVICE_OFFLINE", `${url} answered 503`);
  camera.trouble = (_, response) =>
    response.writeHead(200, { "content-type": "multipart/x-mixed-replace; boundary=b" }).end();
  await fails("E_FAILED", `no frame received from ${url}`);
  camera.trouble = (_, response) =>
    response.writeHead(200, { "content-type": "multipart/x-mixed-replace; boundary=b" }).write("--b\r\n\r\n");
  await fails("E_TIMEOUT", `${url} has not answered within 0.3 s`);
  camera.trouble = (_, response) => response.writeHead(200, { "content-type": "text/html" }).end("<html>");
  await fails("E_FAILED", `${url} sent no picture but 6 bytes of text/html`);
  camera.trouble = (_, response) => response.writeHead(200).end(Buffer.alloc(4_000_000));
  await fails("E_LIMIT", /more than 3100000 bytes/);
  camera.trouble = ({ socket }) => void socket.resetAndDestroy();
  await fails("E_CONNECTION", /cannot be reached: (ECONNRESET|UND_ERR_SOCKET)/);
  camera.trouble = () => {};
  await fails("E_TIMEOUT", /within 0.3 s/);
  const cancel = new AbortController();
  const call = calls(cancel.signal).state();
  setTimeout(() => cancel.abort(new Error("enough")), 50);
  await assert.rejects(call, /enough/);

  // Something that decoders may know and we do not: there is a camera.
  camera.trouble = (_, response) => response.writeHead(200).end(Buffer.from([0xff, 0xd8, 0xff, 0xda]));
  assert.deepEqual(await calls().state(), { online: true, width: null, height: null, fps: null });
  camera.trouble = ({ url: path }, response) =>
    path === "/there"
      ? response.writeHead(200, { "content-type": "image/png" }).end(smallPng)
      : response.writeHead(302, { location: path === "/stream" ? "/there" : nextOf(path ?? "") }).end();
  const nextOf = (path: string) => (path === "/circle" ? path : `${path}1`);
  assert.equal(await calls().snapshot(), smallPng.toString("base64"));
  const circle = await cameraOf(t, { url: `${camera.origin}/circle` });
  await assert.rejects(circle.calls().snapshot(), { code: "E_IO", message: /redirects in circles/ });
  const onAndOn = await cameraOf(t, { url: `${camera.origin}/1` });
  await assert.rejects(onAndOn.calls().snapshot(), { code: "E_IO", message: /answered 302/ });

  camera.stop();
  await fails("E_CONNECTION", `${url} cannot be reached: ECONNREFUSED`);
  await assert.rejects(calls().connect(), { code: "ECONNREFUSED" });
  const [gone] = (await driver.inspect?.({ url, timeout: 1 })) ?? [];
  assert.equal(gone?.ok, false);
});

test("configurations that cannot work are refused in the words of the Python driver", async () => {
  const refused = async (config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { camera: entry(config) } }), message);
  await refused({ url: "rtsp://camera/stream" }, /unsupported scheme in stream url: rtsp/);
  await refused({ url: "camera/stream" }, /unsupported scheme in stream url: /);
  await refused({ url: "http:///stream" }, /missing host in stream url: http:\/\/\/stream/);
  await refused({ url: "http://c/", snapshot_url: "ftp://c/" }, /snapshot_url: unsupported scheme/);
  await refused({}, /url/);
});

test("sizes are those of the frame header", () => {
  assert.deepEqual(pictureSize(leftBright), { width: 48, height: 32 });
  assert.deepEqual(pictureSize(smallPng), { width: 7, height: 5 });
  const segment = (marker: number, ...content: number[]) => [0xff, marker, 0, content.length + 2, ...content];
  const frame = (marker: number) => segment(marker, 8, 0x01, 0x02, 0x03, 0x04, 1);
  const jpeg = (...parts: number[][]) => Uint8Array.from([0xff, 0xd8, ...parts.flat()]);
  const size = { width: 0x0304, height: 0x0102 };
  // A thumbnail has a frame header of its own, in an APP segment; tables have codes between those of frames.
  const before = [segment(0xe1, ...frame(0xc0)), segment(0xc4, 1, 2, 3, 4, 5, 6, 7), [0xff], [0xff, 0x01]];
  for (const marker of [0xc0, 0xc1, 0xc2, 0xcf]) assert.deepEqual(pictureSize(jpeg(...before, frame(marker))), size);
  assert.equal(pictureSize(jpeg(segment(0xda), frame(0xc0))), undefined);
  assert.equal(pictureSize(jpeg(segment(0xc0, 8, 0, 0, 1, 1, 1))), undefined, "a height that comes later");
  assert.equal(pictureSize(jpeg([0x00], frame(0xc0))), undefined);
  for (let length = 0; length < leftBright.indexOf(Buffer.from([0xff, 0xc0])) + 9; length += 1) {
    assert.equal(pictureSize(leftBright.subarray(0, length)), undefined);
  }
  assert.equal(isPicture(Buffer.from("<html>")), false);
});

test("the first part, however it comes", () => {
  const part = (text: string, step = 1, most = 1_000) => {
    const first = new FirstPart(most);
    for (let at = 0; at < text.length; at += step) {
      const content = first.push(Buffer.from(text.slice(at, at + step), "latin1"));
      if (content !== undefined) return Buffer.from(content).toString("latin1");
    }
    return undefined;
  };
  const rest = "\r\n--b\r\n";
  for (const step of [1, 2, 3, 7, 1_000]) {
    assert.equal(part(`--b\r\nContent-Length: 4\r\n\r\nab\r\n${rest}`, step), "ab\r\n");
    assert.equal(part(`\r\n--b\r\nX: y\r\n\r\nab\r\n--c${rest}`, step), "ab\r\n--c");
    assert.equal(part(`preamble\r\n--b\r\n\r\n\n-${rest}`, step), "\n-");
    assert.equal(part(`----b\n\nab\n----b`, step), "ab");
    assert.equal(part(`--b\r\ncontent-length: 0\r\n\r\n`, step), "");
    assert.equal(part(`--b\r\n\r\nab\r\n--`, step), undefined);
  }
  assert.throws(() => part("x".repeat(20_000), 1_000), /no multipart stream/);
  assert.throws(() => part(`--b\r\nContent-Length: 1001\r\n\r\n`), /longer than 1000 bytes/);
  assert.throws(() => part(`--b\r\n\r\n${"x".repeat(1_100)}`), /longer than 1000 bytes/);
});

test("what is no request passes as it comes", async () => {
  const passed = async (...chunks: string[]) => {
    const rewrite = rewriteRequestHead({ Host: "camera" });
    for (const chunk of chunks) rewrite.write(chunk);
    rewrite.end();
    return (await buffer(rewrite.pipe(new PassThrough()))).toString();
  };
  for (const text of ["", "\x16\x03\x01", "GET", "GET / HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]) {
    assert.equal(await passed(...text), text);
  }
  assert.equal(await passed("GET / HTTP/1.1\r\n\r\n"), "GET / HTTP/1.1\r\nHost: camera\r\n\r\n");
  const long = `GET / HTTP/1.1\r\nX: ${"x".repeat(20_000)}\r\n\r\n`;
  assert.equal(await passed(long), long);
  // A peer that answers each byte is not kept waiting by us.
  const rewrite = rewriteRequestHead({ Host: "camera" });
  rewrite.write("x");
  assert.equal(String(rewrite.read()), "x");
});
