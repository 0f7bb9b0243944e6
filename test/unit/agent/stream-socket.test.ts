// Connections of families that Node has no classes for; over Unix sockets, which every host has.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { buffer } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import { dialSocket } from "../../../agent/sys/stream-socket.ts";
import { dialVsock, vsockAddress, vsockLayout } from "../../../agent/sys/vsock.ts";
import { scratch } from "../../sim/agent.ts";
import { cValues, layoutExpressions, noCompiler } from "../../sim/c-values.ts";
import { until } from "../../sim/tftp.ts";

const AF_UNIX = 1;
const { signal } = new AbortController();
const descriptors = () => readdirSync("/proc/self/fd").length;

function peerAt(path: string) {
  const address = Buffer.alloc(110);
  address.writeUInt16LE(AF_UNIX);
  address.write(path, 2);
  return { family: AF_UNIX, address, where: path };
}

/** A server that treats its connections like this. */
async function serve(t: TestContext, onConnection: (socket: Socket) => void) {
  const path = join(scratch(t), "socket");
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket.on("error", () => {}));
    onConnection(socket);
  }).listen(path);
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return peerAt(path);
}

test("what is sent comes back, more than any buffer holds, and both ends end on their own", async (t) => {
  const peer = await serve(t, (socket) => void socket.pipe(socket));
  const before = descriptors();
  const content = randomBytes(3_000_000);
  const streams = await Promise.all([1, 2].map(() => dialSocket(peer, signal, 5_000)));
  await Promise.all(
    streams.map(async (stream: Duplex) => {
      stream.end(content);
      assert.ok((await buffer(stream)).equals(content));
    }),
  );
  await until(() => streams.every((stream) => stream.closed));
  await until(() => descriptors() <= before + 1);
});

test("a peer that has more to say after our end is heard, and one that reads late holds us up", async (t) => {
  const peer = await serve(t, (socket) => {
    socket.pause();
    setTimeout(() => socket.resume(), 50);
    let bytes = 0;
    socket.on("data", (chunk: Buffer) => (bytes += chunk.length));
    socket.once("end", () => socket.end(`${bytes}`));
  });
  const stream = await dialSocket(peer, signal, 5_000);
  stream.end(Buffer.alloc(2_000_000));
  assert.equal((await buffer(stream)).toString(), "2000000");
});

test("a stream that nobody reads takes no more than its buffer", async (t) => {
  const sent = { bytes: 0 };
  const peer = await serve(t, (socket) => {
    const more = () => {
      const chunk = Buffer.alloc(65_536);
      while (!socket.destroyed && socket.write(chunk, () => (sent.bytes += chunk.length)));
      socket.once("drain", more);
    };
    more();
  });
  const stream = await dialSocket(peer, signal, 5_000);
  stream.read(0);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(stream.readableLength <= 2 * 65_536, `${stream.readableLength} bytes`);
  const held = sent.bytes;
  for (let read = 0; read < held + 1_000_000;) {
    const chunk = stream.read() as Buffer | null;
    if (chunk === null) await once(stream, "readable");
    else read += chunk.length;
  }
  stream.destroy();
});

test("nobody there, a refusal, a peer that breaks off, a caller that gives up", async (t) => {
  const before = descriptors();
  const path = join(scratch(t), "nobody");
  await assert.rejects(dialSocket(peerAt(path), signal, 5_000), { code: "ENOENT", path });
  await assert.rejects(dialSocket({ ...peerAt(path), family: 255 }, signal, 5_000), { code: "EAFNOSUPPORT" });
  await assert.rejects(dialSocket(peerAt(path), AbortSignal.abort(new Error("no more")), 5_000), /no more/);
  const peer = await serve(t, (socket) => socket.once("data", () => socket.destroy()));
  const stream = await dialSocket(peer, signal, 5_000);
  stream.resume().write("x");
  await once(stream, "end");
  // The first write after that finds out, whatever its size.
  stream.write("y");
  await until(() => stream.destroyed);
  assert.equal((stream.errored as NodeJS.ErrnoException).code, "EPIPE");
  await until(() => descriptors() <= before + 1);
});

test("an address of a virtual socket is C's", { skip: noCompiler }, (t) => {
  const { bytes: _bytes, ...members } = vsockLayout.sockaddr_vm;
  const names = Object.fromEntries(Object.keys(members).map((name) => [name, name]));
  const headers = ["sys/socket.h", "linux/vm_sockets.h"];
  const expressions = ["AF_VSOCK", ...layoutExpressions("struct sockaddr_vm", names)];
  const address = vsockAddress(0x01020304, 0x0a0b0c0d);
  assert.deepEqual(cValues(t, headers, expressions), [
    address.readUInt16LE(0),
    ...Object.values(vsockLayout.sockaddr_vm),
  ]);
  assert.equal(address.toString("hex"), "28000000" + "0d0c0b0a" + "04030201" + "00000000");
});

test("a virtual socket that does not answer is given up in time, or refused by the kernel", async () => {
  const before = descriptors();
  const began = performance.now();
  await assert.rejects(dialVsock(0xdead_beef, 22, signal, 100), (error: { code?: string }) =>
    ["E_TIMEOUT", "E_UNSUPPORTED", "ENODEV", "ECONNRESET", "ENETUNREACH", "EHOSTUNREACH", "EACCES"].includes(
      error.code ?? "",
    ),
  );
  assert.ok(performance.now() - began < 5_000);
  assert.ok(descriptors() <= before + 1);
});
