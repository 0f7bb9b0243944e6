import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import http2 from "node:http2";
import { createConnection } from "node:net";
import { test, type TestContext } from "node:test";
import { serve } from "../../../agent/session/server.ts";
import { createDirectSession } from "../../../agent/session/session.ts";
import { startExporter } from "../../sim/exporter.ts";
import { createRig, eventually, pattern } from "../../sim/rig.ts";
import { ended, failure, frame, WireClient, type FrameCall } from "../../sim/wire.ts";

async function start(t: TestContext) {
  const rig = createRig();
  const { exporter, socketPath } = await startExporter(t, { rig: rig.entry }, { catalog: rig.catalog });
  const client = new WireClient(t, socketPath);
  const uuid = await client.uuid("rig");
  const open = (method: string) => client.stream({ kind: "driver", uuid, method });
  return { ...rig, exporter, socketPath, client, uuid, open };
}

const nothing = Buffer.alloc(0);
const send = (call: FrameCall, data: string | Buffer) =>
  call.write({ payload: Buffer.from(data), frameType: frame.data });

test("frames keep their boundaries both ways, and the RPC ends when both sides have said GOAWAY", async (t) => {
  const { open, state } = await start(t);
  const call = open("connect");
  await once(call, "metadata");
  for (const text of ["a", "bc", "x".repeat(100_000), "def"]) send(call, text);
  call.write({ payload: nothing, frameType: frame.goaway });
  const { code, messages } = await ended(call);
  assert.equal(code, 0);
  assert.deepEqual(
    messages.map(({ payload, frameType }) => [payload.length, frameType]),
    [
      [1, frame.data],
      [2, frame.data],
      [100_000, frame.data],
      [3, frame.data],
      [0, frame.goaway],
    ],
  );
  assert.deepEqual(state.chunks, [1, 2, 100_000, 3]);
  await eventually("the device is closed", () => state.openStreams === 0);
});

test("a half-close without GOAWAY means the same", async (t) => {
  const { open } = await start(t);
  const call = open("connect");
  send(call, "hello");
  call.end();
  const { code, messages } = await ended(call);
  assert.equal(code, 0);
  assert.deepEqual(
    messages.map(({ payload, frameType }) => [payload.toString(), frameType]),
    [
      ["hello", frame.data],
      ["", frame.goaway],
    ],
  );
});

test("PING, empty and unknown frames mean nothing; RST_STREAM tears the stream down", async (t) => {
  const { open, state } = await start(t);
  const call = open("connect");
  send(call, "a");
  call.write({ payload: nothing, frameType: frame.ping });
  call.write({ payload: Buffer.from("?"), frameType: 42 as 0 });
  send(call, "");
  send(call, "b");
  await eventually("both chunks came", () => state.chunks.length === 2);
  call.write({ payload: nothing, frameType: frame.reset });
  assert.equal((await ended(call)).code, 1);
  assert.deepEqual(state.chunks, [1, 1]);
  await eventually("the device is closed", () => state.openStreams === 0);
});

test("long chunks of a byte-oriented device are cut into frames of 64 KiB", async (t) => {
  const { open, state } = await start(t);
  const call = open("bytes");
  await once(call, "metadata");
  state.device?.push(Buffer.alloc(200_000));
  call.write({ payload: nothing, frameType: frame.goaway });
  const { messages } = await ended(call);
  assert.deepEqual(
    messages.map(({ payload }) => payload.length),
    [65_536, 65_536, 65_536, 3_392, 0],
  );
});

test("a device that breaks is told by GOAWAY and a status with its reason", async (t) => {
  const { open, state } = await start(t);
  const call = open("connect");
  await once(call, "metadata");
  state.device?.destroy(Object.assign(new Error("x"), { errno: -104, code: "ECONNRESET" }));
  const { code, details, messages } = await ended(call);
  assert.deepEqual([code, details], [14, "[Errno 104] Connection reset by peer"]);
  assert.deepEqual(
    messages.map(({ frameType }) => frameType),
    [frame.goaway],
  );
  const refused = await ended(open("refuse"));
  assert.deepEqual([refused.code, refused.details], [14, "[Errno 111] Connection refused"]);
});

test("a stream that cannot be half-closed lingers for output, then its port is free", async (t) => {
  const { exporter, socketPath, uuid, state } = await start(t);
  const served = await serve(createDirectSession(exporter), { unix: `${socketPath}-2`, lingerMs: 300 });
  t.after(() => served.close(0));
  const call = new WireClient(t, `${socketPath}-2`).stream({ kind: "driver", uuid, method: "serial" });
  await once(call, "metadata");
  call.write({ payload: nothing, frameType: frame.goaway });
  const outcome = ended(call);
  for (let n = 0; n < 5; n += 1) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    state.device?.push(Buffer.from("boot\n"));
  }
  const { code, messages } = await outcome;
  assert.equal(code, 0);
  assert.equal(Buffer.concat(messages.map(({ payload }) => payload)).toString(), "boot\n".repeat(5));
  await eventually("the port is free", () => state.openStreams === 0);
});

test("500 streams opened and closed, or cancelled, leave no open device", async (t) => {
  const { open, state, uuid, socketPath } = await start(t);
  for (let n = 0; n < 500; n += 1) {
    const call = open("connect");
    await once(call, "metadata");
    if (n % 2 === 0) call.cancel();
    else call.end({ payload: nothing, frameType: frame.goaway });
    await ended(call);
  }
  await eventually("all devices are closed", () => state.openStreams === 0);

  const session = http2.connect("http://localhost", { createConnection: () => createConnection(socketPath) });
  t.after(() => session.destroy());
  await once(session, "connect");
  for (let n = 0; n < 100; n += 1) {
    const stream = session.request({
      ":method": "POST",
      ":path": "/jumpstarter.v1.RouterService/Stream",
      "content-type": "application/grpc",
      request: JSON.stringify({ kind: "driver", uuid, method: "connect" }),
    });
    stream.on("error", () => {});
    stream.write(Buffer.from([0, 0, 0, 0, 3, 10, 1, 65]));
    // Resets at once, with the request on its way, being opened, or just open.
    if (n % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
    stream.close(http2.constants.NGHTTP2_CANCEL);
    await once(stream, "close");
  }
  await eventually("all devices are closed again", () => state.openStreams === 0);
});

test("a slow device holds its client back, and a slow client its device", async (t) => {
  const { open, state } = await start(t);
  let openGate = () => {};
  state.gate = new Promise((resolve) => (openGate = resolve));
  const up = open("sink");
  await once(up, "metadata");
  const chunk = Buffer.alloc(64 * 1024);
  let sent = 0;
  const pump = async () => {
    for (; sent < 256 * 1024 * 1024; sent += chunk.length) {
      if (!send(up, chunk)) await once(up, "drain");
    }
    up.end();
  };
  const pumping = pump();
  await quiet(() => sent);
  assert.ok(sent < 100 * 1024 * 1024, `${sent} bytes ran ahead`);
  state.gate = undefined;
  openGate();
  await pumping;
  assert.equal((await ended(up)).code, 0);
  assert.equal(state.taken, 256 * 1024 * 1024);

  state.taken = 0;
  const down = open("source");
  await once(down, "readable");
  await quiet(() => state.taken);
  assert.ok(state.taken < 50 * 1024 * 1024, `${state.taken} bytes ran ahead`);
  down.cancel();
  await eventually("the device is closed", () => state.openStreams === 0);
});

/** Waits until a number has stopped growing. */
async function quiet(value: () => number): Promise<void> {
  for (let before = -1, same = 0; same < 10;) {
    await new Promise((resolve) => setTimeout(resolve, 30));
    same = value() === before && before > 0 ? same + 1 : 0;
    before = value();
  }
}

test("stream requests that make no sense are refused with what is wrong", async (t) => {
  const { client, uuid } = await start(t);
  for (const [request, text] of [
    ["{", /is not JSON/],
    ["null", /is not valid/],
    [{ uuid }, /is not valid: kind/],
    [{ kind: "tunnel", uuid }, /is not valid: kind/],
    [{ kind: "driver" }, /is not valid: uuid/],
  ] as const) {
    const { code, details } = await ended(client.stream(request));
    assert.equal(code, 2);
    assert.match(details, text);
  }
  const bare = await ended(client.router.stream());
  assert.deepEqual([bare.code, bare.details], [2, "metadata `request` is missing"]);
  const unnamed = client.stream({ kind: "driver", uuid });
  await once(unnamed, "metadata");
  unnamed.end();
});

async function upload(call: FrameCall, chunks: Iterable<Buffer>): Promise<void> {
  for (const chunk of chunks) if (!send(call, chunk)) await once(call, "drain");
  call.write({ payload: nothing, frameType: frame.goaway });
  call.end();
}

function sha256(chunks: Iterable<Buffer>): string {
  const hash = createHash("sha256");
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest("hex");
}

test("a lent stream is read to its end once, and its client sees the end", async (t) => {
  const { client, uuid, exporter } = await start(t);
  const { call, handle, acceptEncoding } = await client.resource(uuid);
  assert.equal(acceptEncoding, "");
  const bytes = 20 * 1024 * 1024 + 7;
  const outcome = ended(call);
  const [result] = await Promise.all([client.call(uuid, "read", [handle]), upload(call, pattern(bytes))]);
  assert.deepEqual(result, { bytes, sha256: sha256(pattern(bytes)) });
  const { code, messages } = await outcome;
  assert.deepEqual([code, messages.map(({ frameType }) => frameType)], [0, [frame.goaway]]);
  assert.equal(await failure(client.call(uuid, "read", [handle])), `2 UUID('${handle.uuid}')`);
  assert.equal(exporter.resources.size, 0);
});

test("an upload that is cancelled fails its call, also when the client half-closes first", async (t) => {
  const { client, uuid, socketPath, exporter } = await start(t);
  const session = http2.connect("http://localhost", { createConnection: () => createConnection(socketPath) });
  t.after(() => session.destroy());
  const stream = session.request({
    ":method": "POST",
    ":path": "/jumpstarter.v1.RouterService/Stream",
    "content-type": "application/grpc",
    request: JSON.stringify({ kind: "resource", uuid }),
  });
  stream.on("error", () => {});
  const [headers] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
  const answered = client.call(uuid, "read", [JSON.parse(String(headers["resource"]))]);
  stream.write(Buffer.from([0, 0, 0, 0, 3, 10, 1, 65]));
  await eventually("the call has its resource", () => exporter.resources.size === 0);
  // Node sends END_STREAM first, then the reset.
  stream.close(http2.constants.NGHTTP2_CANCEL);
  assert.equal(await failure(answered), "1 the caller has gone");
});

test("what a driver writes reaches the client whole, then GOAWAY", async (t) => {
  const { client, uuid } = await start(t);
  const { call, handle } = await client.resource(uuid);
  const outcome = ended(call);
  const bytes = 5 * 1024 * 1024 + 1;
  const answered = client.call(uuid, "write", [handle, bytes]);
  call.once("end", () => call.end());
  const collected: Buffer[] = [];
  call.on("data", ({ payload, frameType }: { payload: Buffer; frameType: number }) => {
    collected.push(payload);
    if (frameType === frame.goaway) call.end();
  });
  await answered;
  const { code, messages } = await outcome;
  assert.equal(code, 0);
  assert.equal(messages.at(-1)?.frameType, frame.goaway);
  assert.equal(sha256(collected), sha256(pattern(bytes)));
});

test("a call that fails, or does not look at its resource, still ends the client's stream", async (t) => {
  const { client, uuid } = await start(t);
  for (const [method, expected] of [
    ["peek", "13 [Errno 28] No space left on device"],
    ["ignore", undefined],
    ["nothing", "5 method nothing not found on driver"],
  ] as const) {
    const { call, handle } = await client.resource(uuid);
    const sawEnd = new Promise<void>((resolve) => {
      call.on("data", ({ frameType }: { frameType: number }) => frameType === frame.goaway && resolve());
    });
    send(call, "x".repeat(1000));
    const answered = client.call(uuid, method, [handle]);
    if (expected === undefined) await answered;
    else assert.equal(await failure(answered), expected);
    await sawEnd;
    // The client may go on sending for a while; nothing waits for it.
    for (let n = 0; n < 100; n += 1) send(call, Buffer.alloc(64 * 1024));
    call.end();
    assert.equal((await ended(call)).code, 0);
  }
});

test("handles that are wrong, expired or too many are refused", async (t) => {
  const rig = createRig();
  const { socketPath, exporter } = await startExporter(
    t,
    { rig: rig.entry },
    { catalog: rig.catalog, resources: { limit: 2, ttlMs: 300 } },
  );
  const client = new WireClient(t, socketPath);
  const uuid = await client.uuid("rig");
  const union = /^3 argument 1.*|^3 1 validation error for tagged-union/;
  for (const bad of [null, "x", {}, { kind: "other" }, { kind: "client_stream", uuid: "x" }]) {
    assert.match(await failure(client.call(uuid, "read", [bad])), union);
  }
  const unknown = "00000000-0000-4000-8000-000000000000";
  assert.equal(
    await failure(client.call(uuid, "read", [{ kind: "client_stream", uuid: unknown, x_jmp_content_encoding: null }])),
    `2 UUID('${unknown}')`,
  );
  const first = await client.resource(uuid);
  await client.resource(uuid);
  assert.match(await failure(client.resource(uuid)), /^8 2 resources wait to be used already/);
  const expired = await ended(first.call);
  assert.deepEqual([expired.code, expired.details], [4, "no call used this resource within 0.3 s"]);
  await eventually("none waits", () => exporter.resources.size === 0);
});
