import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openAuditLog } from "../../../agent/ops/audit.ts";
import type { CallDone, ResourceDone, SessionObserver, StreamDone } from "../../../agent/session/observer.ts";
import { scratch } from "../../sim/agent.ts";
import { startExporter } from "../../sim/exporter.ts";
import { createRig, eventually } from "../../sim/rig.ts";
import { ended, failure, frame, WireClient, type FrameCall } from "../../sim/wire.ts";

async function start(t: TestContext, observer?: SessionObserver) {
  const rig = createRig();
  const { session, socketPath } = await startExporter(t, { rig: rig.entry }, { catalog: rig.catalog });
  const calls: CallDone[] = [];
  const streams: StreamDone[] = [];
  const resources: ResourceDone[] = [];
  session.observer = observer ?? {
    call: (done) => calls.push(done),
    stream: (done) => streams.push(done),
    resource: (done) => resources.push(done),
  };
  const client = new WireClient(t, socketPath);
  const uuid = await client.uuid("rig");
  return { ...rig, client, uuid, calls, streams, resources };
}

const send = (call: FrameCall, data: string | Buffer) =>
  call.write({ payload: Buffer.from(data), frameType: frame.data });
const goaway = (call: FrameCall) => call.write({ payload: Buffer.alloc(0), frameType: frame.goaway });

/** Without the time it took, which is checked to be one. */
function timeless<D extends { durationMs: number }>({ durationMs, ...rest }: D): Omit<D, "durationMs"> {
  assert.ok(durationMs >= 0 && durationMs < 60_000);
  return rest;
}

const rigCall = { caller: "client", driver: "rig", type: "rig.driver.Rig" } as const;

test("calls are told with their outcome, never with a name that the driver does not know", async (t) => {
  const { client, uuid, calls, state } = await start(t);
  await client.call(uuid, "add", [1, 2]);
  await failure(client.call(uuid, "fail", ["timeout"]));
  await failure(client.call(uuid, "add", ["secret"]));
  await failure(client.call(uuid, "my secret"));
  await failure(client.call(uuid, "constructor"));
  await ended(client.streamingCall(uuid, "items", [3]));
  const endless = client.streamingCall(uuid, "endless");
  await once(endless, "data");
  endless.on("error", () => {});
  endless.cancel();
  await eventually("the cancelled one is told", () => calls.length === 7);
  assert.equal(state.running, 0);
  assert.deepEqual(calls.map(timeless), [
    { ...rigCall, method: "add", code: undefined },
    { ...rigCall, method: "fail", code: "E_TIMEOUT" },
    { ...rigCall, method: "add", code: "E_INVALID" },
    { ...rigCall, method: "?", code: "E_NO_METHOD" },
    { ...rigCall, method: "?", code: "E_NO_METHOD" },
    { ...rigCall, method: "items", code: undefined },
    { ...rigCall, method: "endless", code: "E_CANCELLED" },
  ]);
});

test("streams are told with the bytes of both directions, however they end", async (t) => {
  const { client, uuid, streams } = await start(t);
  for (const method of ["connect", "bytes"]) {
    const call = client.stream({ kind: "driver", uuid, method });
    await once(call, "metadata");
    for (const length of [1, 100_000, 300_000]) send(call, Buffer.alloc(length, "x"));
    goaway(call);
    assert.equal((await ended(call)).code, 0);
  }
  const refused = client.stream({ kind: "driver", uuid, method: "refuse" });
  await ended(refused);
  const broken = client.stream({ kind: "driver", uuid, method: "bytes" });
  await once(broken, "metadata");
  send(broken, "hello");
  broken.resume();
  await once(broken, "data");
  broken.cancel();
  await eventually("all are told", () => streams.length === 4);
  const [echoed, bytes, refusal, cancelled] = streams.map(timeless);
  assert.deepEqual(echoed, { ...rigCall, method: "connect", code: undefined, bytesIn: 400_001, bytesOut: 400_001 });
  assert.deepEqual(bytes, { ...rigCall, method: "bytes", code: undefined, bytesIn: 400_001, bytesOut: 400_001 });
  assert.equal(refusal?.method, "refuse");
  assert.notEqual(refusal?.code, undefined);
  assert.deepEqual([refusal?.bytesIn, refusal?.bytesOut], [0, 0]);
  assert.deepEqual(cancelled, { ...rigCall, method: "bytes", code: "E_CANCELLED", bytesIn: 5, bytesOut: 5 });
});

test("resources are told with the bytes that came and went", async (t) => {
  const { client, uuid, resources } = await start(t);
  const upload = await client.resource(uuid);
  const read = client.call(uuid, "read", [upload.handle]);
  send(upload.call, Buffer.alloc(200_000, "u"));
  goaway(upload.call);
  assert.equal(((await read) as { bytes: number }).bytes, 200_000);
  await ended(upload.call);
  const download = await client.resource(uuid);
  const over = ended(download.call);
  await client.call(uuid, "write", [download.handle, 150_000]);
  goaway(download.call);
  await over;
  await eventually("both are told", () => resources.length === 2);
  assert.deepEqual(resources.map(timeless), [
    { caller: "client", code: undefined, bytesIn: 200_000, bytesOut: 0 },
    { caller: "client", code: undefined, bytesIn: 0, bytesOut: 150_000 },
  ]);
});

test("the audit log of a session has what was done, and no argument, result or payload", async (t) => {
  const file = join(scratch(t), "audit.jsonl");
  const audit = openAuditLog({ file });
  t.after(() => audit.close());
  const lease = audit.begin({ exporter: "test", lease: "lease-1", client: "alice" });
  const { client, uuid } = await start(t, lease);
  const secret = "hunter2";
  assert.equal(await client.call(uuid, "echo", [secret]), secret);
  await failure(client.call(uuid, secret));
  await failure(client.call(uuid, "fail", [secret]));
  const call = client.stream({ kind: "driver", uuid, method: "connect" });
  await once(call, "metadata");
  send(call, secret);
  goaway(call);
  await ended(call);
  lease.end({ outcome: "released" });
  await audit.close();
  const text = readFileSync(file, "utf8");
  assert.ok(!text.includes(secret));
  const events = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    events.map(({ event }) => event),
    ["lease-begin", "lease-calls", "lease-end"],
  );
  const methods = (events[1]?.["calls"] as { method: string; count: number }[]).map(({ method, count }) => [
    method,
    count,
  ]);
  assert.deepEqual(methods, [
    ["echo", 1],
    ["?", 1],
    ["fail", 1],
  ]);
  const { count, bytesIn, bytesOut } = events[2]?.["streams"] as Record<string, number>;
  assert.deepEqual([count, bytesIn, bytesOut], [1, secret.length, secret.length]);
});
