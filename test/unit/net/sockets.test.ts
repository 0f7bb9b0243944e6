import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { test, type TestContext } from "node:test";
import { WebSocketServer, type WebSocket } from "ws";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { maskCredentials } from "../../../net/sockets/address.ts";
import { addressedNetwork, network } from "../../../net/sockets/interface.ts";

const driver = (name: string, config: Record<string, unknown> = {}) => ({
  type: `jumpstarter_driver_network.driver.${name}`,
  config,
});

async function calls(t: TestContext, name: string, config: Record<string, unknown>) {
  const exporter = await createExporter({ name: "test", export: { net: driver(name, config) } });
  t.after(() => exporter.close());
  return exporter.calls("net", addressedNetwork);
}

/** Only `connect`: for the networks without an address. */
async function dialer(t: TestContext, name: string, config: Record<string, unknown>) {
  const exporter = await createExporter({ name: "test", export: { net: driver(name, config) } });
  t.after(() => exporter.close());
  return () => exporter.calls("net", network).connect();
}

async function listen(t: TestContext, server: Server, where: { port: number; host: string } | { path: string }) {
  server.listen(where);
  await once(server, "listening");
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

/** Everything up to the end of file; leaves the other direction alone. */
async function readAll(stream: Duplex): Promise<string> {
  let text = "";
  stream.on("data", (chunk) => (text += String(chunk)));
  await once(stream, "end");
  return text;
}

const frames = (stream: Duplex) => stream.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>;
const nextFrame = async (from: AsyncIterator<Buffer>) => ((await from.next()) as { value: Buffer }).value;

for (const kind of ["tcp", "unix"] as const) {
  test(`${kind}: each direction ends on its own`, async (t) => {
    const server = createServer({ allowHalfOpen: true }, (peer) => {
      // Answers only after the client's FIN.
      void readAll(peer).then((text) => peer.end(`got ${text}`));
    });
    let connect: () => Promise<Duplex>;
    if (kind === "tcp") {
      const port = await listen(t, server, { host: "127.0.0.1", port: 0 });
      connect = await dialer(t, "TcpNetwork", { host: "127.0.0.1", port: String(port) });
    } else {
      const folder = await mkdtemp(join(tmpdir(), "jmp-sock-"));
      t.after(() => rm(folder, { recursive: true }));
      await listen(t, server, { path: join(folder, "s") });
      connect = await dialer(t, "UnixNetwork", { path: join(folder, "s") });
    }
    const streams = await Promise.all([connect(), connect(), connect()]);
    for (const [index, stream] of streams.entries()) stream.end(`hello ${index}`);
    assert.deepEqual(await Promise.all(streams.map(readAll)), ["got hello 0", "got hello 1", "got hello 2"]);
  });
}

test("tcp: the peer may end first and still be written to", async (t) => {
  let peer!: Socket;
  const server = createServer({ allowHalfOpen: true }, (socket) => (peer = socket).end("bye"));
  const port = await listen(t, server, { host: "127.0.0.1", port: 0 });
  const stream = await (await dialer(t, "TcpNetwork", { host: "localhost", port }))();
  assert.equal(await readAll(stream), "bye");
  const heard = readAll(peer);
  stream.end("still here");
  assert.equal(await heard, "still here");
});

test("tcp: a refused connection and a cancelled one fail with their category", async (t) => {
  const server = createServer();
  const port = await listen(t, server, { host: "127.0.0.1", port: 0 });
  server.close();
  const mute = createServer(); // accepts, and never says a word
  const mutePort = await listen(t, mute, { host: "127.0.0.1", port: 0 });
  const exporter = await createExporter({
    name: "test",
    export: {
      refused: driver("TcpNetwork", { host: "127.0.0.1", port }),
      mute: driver("WebsocketNetwork", { url: `ws://127.0.0.1:${mutePort}` }),
      unix: driver("UnixNetwork", { path: "/nonexistent/socket" }),
    },
  });
  t.after(() => exporter.close());
  await assert.rejects(exporter.calls("refused", network).connect(), { code: "ECONNREFUSED" });
  await assert.rejects(exporter.calls("unix", network).connect(), { code: "ENOENT" });
  const given = new AbortController();
  const connecting = exporter.calls("mute", network, { signal: given.signal }).connect();
  await once(mute, "connection");
  given.abort();
  await assert.rejects(connecting, { code: "E_CANCELLED" });
});

test("addresses: names are resolved, IPv6 is bracketed, credentials are masked, and all of it can be forbidden", async (t) => {
  const address = async (name: string, config: Record<string, unknown>) => (await calls(t, name, config)).address();
  assert.equal(await address("TcpNetwork", { host: "192.168.1.2", port: 22 }), "tcp://192.168.1.2:22");
  assert.equal(await address("TcpNetwork", { host: "::1", port: 8080 }), "tcp://[::1]:8080");
  assert.match(await address("UdpNetwork", { host: "localhost", port: 69 }), /^udp:\/\/(127\.0\.0\.1|\[::1\]):69$/);
  assert.equal(await address("TcpNetwork", { host: "no.such.host.invalid", port: 1 }), "tcp://no.such.host.invalid:1");
  assert.equal(await address("WebsocketNetwork", { url: "ws://h/p?q=1" }), "ws://h/p?q=1");
  assert.equal(await address("WebsocketNetwork", { url: "wss://u:p@h/p" }), "wss://***@h/p");
  assert.equal(maskCredentials("ws://h/p@q"), "ws://h/p@q");
  const hidden = await calls(t, "TcpNetwork", { host: "h", port: 1, enable_address: false });
  await assert.rejects(hidden.address(), {
    code: "E_INVALID",
    message: "enable_address mode is not true in the exporter configuration",
  });
});

test("wrong configurations are named", async () => {
  const problem = async (name: string, config: Record<string, unknown>) => {
    const error = await createExporter({ name: "test", export: { net: driver(name, config) } }).catch(
      (thrown: unknown) => thrown as AgentError,
    );
    return (error as AgentError).message;
  };
  assert.equal(await problem("TcpNetwork", { host: "h", port: "abc" }), "export.net.config.port: must be a number");
  assert.equal(
    await problem("TcpNetwork", { host: "h", port: 65536 }),
    "export.net.config.port: must be at most 65535",
  );
  assert.match(await problem("UnixNetwork", { path: "/s", mode: 1 }), /^export\.net\.config\.mode: unknown key/);
  assert.equal(
    await problem("WebsocketNetwork", { url: "http://h" }),
    "export.net.config.url: must be a ws:// or wss:// URL",
  );
});

test("udp: one frame is one datagram, also an empty one, and a port that is not open yet does not end the stream", async (t) => {
  const peer = createSocket("udp4").bind(0, "127.0.0.1");
  await once(peer, "listening");
  const { port } = peer.address();
  const connect = await dialer(t, "UdpNetwork", { host: "127.0.0.1", port });
  const stream = await connect();
  t.after(() => stream.destroy());
  const got: string[] = [];
  let from!: AddressInfo;
  const three = new Promise<void>((resolve) =>
    peer.on("message", (datagram, sender) => {
      from = sender;
      got.push(datagram.toString());
      if (got.length === 3) resolve();
    }),
  );
  for (const text of ["one", "", "three"]) stream.write(Buffer.from(text));
  await three;
  assert.deepEqual(got.sort(), ["", "one", "three"]);
  const received = frames(stream);
  peer.send("", from.port, "127.0.0.1");
  assert.equal((await nextFrame(received)).length, 0);
  peer.send("x".repeat(1400), from.port, "127.0.0.1");
  assert.equal((await nextFrame(received)).length, 1400);

  peer.close(); // now the port answers "unreachable"
  await once(peer, "close");
  for (let i = 0; i < 5; i += 1) {
    stream.write(Buffer.from("nobody"));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(stream.destroyed, false);
  const reborn = createSocket("udp4").bind(port, "127.0.0.1");
  t.after(() => reborn.close());
  await once(reborn, "listening");
  const heard = once(reborn, "message");
  stream.write(Buffer.from("hello again"));
  assert.equal(String((await heard)[0]), "hello again");
});

test("echo: frames come back as they were, and the end comes after the last of them", async (t) => {
  const stream = await (await dialer(t, "EchoNetwork", { anything: "is ignored" }))();
  for (const text of ["a", "bc", ""]) stream.write(Buffer.from(text));
  stream.end(Buffer.from("d"));
  const got: string[] = [];
  for await (const frame of stream) got.push(String(frame));
  assert.deepEqual(got, ["a", "bc", "", "d"]);
});

async function webSocketServer(t: TestContext, onPeer: (peer: WebSocket) => void): Promise<string> {
  const http = createHttpServer();
  const server = new WebSocketServer({ server: http, path: "/ws" });
  server.on("connection", onPeer);
  const port = await listen(t, http, { host: "127.0.0.1", port: 0 });
  t.after(() => {
    for (const peer of server.clients) peer.terminate();
  });
  return `ws://127.0.0.1:${port}/ws`;
}

test("websocket: one message per frame, text as UTF-8, an orderly close is the end", async (t) => {
  const url = await webSocketServer(t, (peer) => {
    peer.send("grüße"); // together with the handshake's answer
    peer.on("message", (data: Buffer, isBinary) => {
      assert.equal(isBinary, true);
      peer.send(data);
      if (String(data) === "bye") peer.close(1001, "going away");
    });
  });
  const stream = await (await dialer(t, "WebsocketNetwork", { url }))();
  const received = frames(stream);
  assert.equal(String(await nextFrame(received)), "grüße");
  stream.write(Buffer.from([0xff, 0]));
  stream.write(Buffer.from("bye"));
  assert.deepEqual([...(await nextFrame(received))], [0xff, 0]);
  assert.equal(String(await nextFrame(received)), "bye");
  assert.equal((await received.next()).done, true);
});

test("websocket: a slow client holds the server up, and loses nothing", async (t) => {
  const count = 200;
  const url = await webSocketServer(t, (peer) => {
    for (let i = 0; i < count; i += 1) peer.send(Buffer.alloc(100_000, i));
    peer.close(1000);
  });
  const stream = await (await dialer(t, "WebsocketNetwork", { url }))();
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(stream.readableLength < count);
  let seen = 0;
  for await (const frame of stream as AsyncIterable<Buffer>) assert.equal(frame[0], seen++ % 256);
  assert.equal(seen, count);
});

test("websocket: refusal, a broken close and a message beyond the limit are errors", async (t) => {
  const url = await webSocketServer(t, (peer) => {
    peer.on("message", (data) => {
      if ((data as Buffer).toString() === "big") peer.send(Buffer.alloc(2_000));
      else peer.close(1011, "broken");
    });
  });
  const failure = async (stream: Duplex) =>
    readAll(stream).then(
      () => "ended",
      (error: Error) => error.message,
    );
  await assert.rejects((await dialer(t, "WebsocketNetwork", { url: `${url}/elsewhere` }))(), /400|404/);
  const connect = await dialer(t, "WebsocketNetwork", { url, max_message_bytes: 1_000 });
  const [big, broken] = [await connect(), await connect()];
  big.write(Buffer.from("big"));
  assert.match(await failure(big), /Max payload size exceeded/);
  broken.write(Buffer.from("x"));
  assert.equal(await failure(broken), "the WebSocket peer closed: 1011 broken");
});
