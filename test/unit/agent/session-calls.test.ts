import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { stat, writeFile } from "node:fs/promises";
import http2 from "node:http2";
import { createConnection } from "node:net";
import { test, type TestContext } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { serve } from "../../../agent/session/server.ts";
import { createDirectSession } from "../../../agent/session/session.ts";
import { windowFor } from "../../../agent/session/windows.ts";
import { startExporter } from "../../sim/exporter.ts";
import { createRig, eventually } from "../../sim/rig.ts";
import { ended, failure, Metadata, WireClient } from "../../sim/wire.ts";

async function start(t: TestContext) {
  const rig = createRig();
  const { exporter, session, socketPath } = await startExporter(t, { rig: rig.entry }, { catalog: rig.catalog });
  const client = new WireClient(t, socketPath);
  return { ...rig, exporter, session, socketPath, client, uuid: await client.uuid("rig") };
}

test("the report lists parents before children and a proxied driver once for each name", async (t) => {
  const rig = createRig();
  const { socketPath } = await startExporter(
    t,
    {
      early: { ref: "box.inner" },
      box: { children: { inner: { ...rig.entry, description: "the rig", methodsDescription: { echo: "says it" } } } },
      late: { ref: "box" },
    },
    { catalog: rig.catalog, description: "all of it", motd: "hello" },
  );
  const { reports, labels, motd } = await new WireClient(t, socketPath).report();
  const shown = reports.map(({ labels, parentUuid }) => [
    labels["jumpstarter.dev/name"],
    reports.findLastIndex(({ uuid }) => uuid === parentUuid),
  ]);
  assert.deepEqual(shown, [
    [undefined, -1],
    ["early", 0],
    ["box", 0],
    ["inner", 2 === reports.findLastIndex(({ uuid }) => uuid === reports[2]?.uuid) ? 2 : 4],
    ["late", 0],
    ["inner", 4],
  ]);
  assert.equal(reports[1]?.uuid, reports[3]?.uuid);
  assert.equal(reports[1]?.description, "the rig");
  assert.deepEqual(reports[1]?.methodsDescription, { echo: "says it" });
  assert.equal(reports[1]?.labels["jumpstarter.dev/client"], "rig.client.RigClient");
  assert.equal(reports[0]?.description, "all of it");
  assert.equal(reports[0]?.parentUuid, undefined);
  assert.deepEqual([labels, motd], [{ "jumpstarter.dev/name": "test" }, "hello"]);
});

test("values survive the way to a driver and back", async (t) => {
  const { client, uuid } = await start(t);
  for (const value of [null, true, 0, -1.5, 2 ** 53, "", "grün ✓", [], {}, [null, [1, { a: [false] }]], { "": null }]) {
    assert.deepEqual(await client.call(uuid, "echo", [value]), value);
  }
  assert.deepEqual(await client.call(uuid, "echo", [1, 2, 3]), [1, 2, 3]);
  assert.equal(await client.call(uuid, "echo", []), null);
  const own = JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}') as object;
  await client.call(uuid, "echo", [own]);
  assert.equal(({} as { polluted?: boolean }).polluted, undefined);
  // grpc-js's generated codec drops an undefined value: the Value on the wire then has no kind.
  assert.equal(await client.call(uuid, "echo", [undefined]), null);
});

test("results without a JSON form get the wire form of the contract", async (t) => {
  const { client, uuid } = await start(t);
  const give = (name: string) => client.call(uuid, "give", [name]);
  assert.deepEqual(await give("nan"), [null, null, null, { deep: null }]);
  assert.equal(await give("big"), 2 ** 53);
  assert.deepEqual(await give("dates"), ["2024-01-02T03:04:05Z", "2024-01-02T03:04:05.060000Z"]);
  assert.deepEqual(await give("map"), { "1": "one", null: { set: [1, 2] } });
  assert.equal(await give("bytes"), "grün");
  assert.equal(await give("lone surrogate"), "a\ufffdb");
  const bad = "3 'utf-8' codec can't decode byte 0xff in position 1: invalid utf-8";
  assert.equal(await failure(give("bad bytes")), bad);
  assert.match(await failure(give("cut bytes")), /^3 .*byte 0xe2 in position 1/);
  assert.match(await failure(give("function")), /^3 Unable to serialize unknown type:/);
  assert.match(await failure(give("deep")), /^3 .*nested deeper than/);
});

test("what a driver throws becomes the status and text that clients know", async (t) => {
  const { client, uuid } = await start(t);
  const fail = (how: string) => failure(client.call(uuid, "fail", [how]));
  assert.equal(await fail("invalid"), "3 no such thing");
  assert.equal(await fail("unsupported"), "12 ");
  assert.equal(await fail("timeout"), "4 too slow");
  assert.equal(await fail("refused"), "14 [Errno 111] Connection refused");
  assert.equal(await fail("missing"), "13 [Errno 2] No such file or directory: '/x'");
  assert.equal(await fail("plain"), "2 100 % kaputt: ✗\nsecond line");
  // HTTP/2 has no header values with a space at an end.
  assert.equal(await fail("blank"), "3 a name is missing: ");
  assert.match(await fail("long"), /^2 x{1000,8000}$/);
  assert.equal(await failure(client.call(uuid, "missing")), "12 this rig has none");
  assert.match(await failure(client.call(uuid, "add", ["one"])), /^3 argument 1: /);
  assert.equal(await client.call(uuid, "add", [41]), 42);
  assert.match(await failure(client.call(uuid, "add", [1, 2, 3])), /^3 takes 2 positional arguments but 3 were given/);
});

test("only exported methods exist, each for one kind of call", async (t) => {
  const { client, uuid } = await start(t);
  for (const method of ["nothing", "constructor", "__proto__", "toString", ""]) {
    assert.equal(await failure(client.call(uuid, method)), `5 method ${method} not found on driver`);
    const streamed = await ended(client.streamingCall(uuid, method));
    assert.deepEqual([streamed.code, streamed.details], [5, `method ${method} not found on driver`]);
    const stream = await ended(client.stream({ kind: "driver", uuid, method }));
    assert.deepEqual([stream.code, stream.details], [5, `method ${method} not found on driver`]);
  }
  assert.equal(await failure(client.call(uuid, "items")), "5 method items missing marker marker_drivercall");
  assert.equal(
    (await ended(client.streamingCall(uuid, "echo"))).details,
    "method echo missing marker marker_streamingdrivercall",
  );
  assert.equal(
    (await ended(client.stream({ kind: "driver", uuid, method: "echo" }))).details,
    "method echo missing marker marker_streamcall",
  );
});

test("a driver is found by every spelling of its uuid, and an unknown one is not a missing method", async (t) => {
  const { client, uuid } = await start(t);
  const plain = uuid.replaceAll("-", "");
  for (const spelling of [uuid.toUpperCase(), `{${uuid}}`, plain, `urn:uuid:${uuid}`, `{${plain}}`]) {
    assert.equal(await client.call(spelling, "add", [1]), 2);
  }
  const other = "00000000-0000-4000-8000-000000000000";
  assert.equal(await failure(client.call(other, "add", [1])), `2 Unexpected <class 'KeyError'>: UUID('${other}')`);
  for (const bad of ["", "nonsense", `${uuid}0`]) {
    assert.equal(
      await failure(client.call(bad, "add", [1])),
      "2 Unexpected <class 'ValueError'>: badly formed hexadecimal UUID string",
    );
  }
});

test("streamed items arrive in order, also those before an error", async (t) => {
  const { client, uuid } = await start(t);
  const all = await ended(client.streamingCall(uuid, "items", [500]));
  assert.equal(all.code, 0);
  assert.deepEqual(
    all.messages.map(({ result }) => result as unknown),
    Array.from({ length: 500 }, (_, n) => n),
  );
  const broken = await ended(client.streamingCall(uuid, "items", [2, "timeout"]));
  assert.deepEqual([broken.code, broken.details, broken.messages.length], [4, "too slow", 2]);
});

test("a driver is asked for the next item only when the last one is on its way", async (t) => {
  const { client, uuid, state } = await start(t);
  const call = client.streamingCall(uuid, "endless");
  call.on("error", () => {});
  await once(call, "readable");
  await eventually("the driver rests", () => {
    const before = state.taken;
    const until = performance.now() + 50;
    while (performance.now() < until);
    return state.taken === before && before > 0;
  });
  call.cancel();
  await eventually("its generator has ended", () => state.running === 0);
});

test("a cancelled call aborts its driver, a thousand times without leaving anything", async (t) => {
  const { client, uuid, state } = await start(t);
  for (let round = 0; round < 10; round += 1) {
    const calls = Array.from({ length: 100 }, () => {
      const call = client.exporter.driverCall({ uuid, method: "wait", args: [] }, () => {});
      return call;
    });
    await eventually("all run", () => state.running === 100);
    for (const call of calls) call.cancel();
    await eventually("none runs", () => state.running === 0);
  }
  assert.equal(state.aborted, 1000);
  const stuck = client.streamingCall(uuid, "stuck");
  stuck.on("error", () => {});
  await once(stuck, "data");
  stuck.cancel();
  await eventually("the stuck generator is aborted", () => state.aborted === 1001);
  assert.equal(await client.call(uuid, "add", [1]), 2);
});

test("a deadline ends the call and aborts its driver", async (t) => {
  const { client, uuid, state } = await start(t);
  const late = client.call(uuid, "wait", [], { deadline: Date.now() + 100 });
  assert.match(await failure(late), /^4 /);
  await eventually("the driver was aborted", () => state.aborted === 1);
});

test("calls are refused unless the lease is ready; the hooks' socket may call while hooks run", async (t) => {
  const { client, uuid, session, socketPath } = await start(t);
  const hooks = await serve(session, { unix: `${socketPath}-hook`, caller: "hook" });
  t.after(() => hooks.close(0));
  const hook = new WireClient(t, `${socketPath}-hook`);
  const allowed = { BEFORE_LEASE_HOOK: [hook], LEASE_READY: [client, hook], AFTER_LEASE_HOOK: [hook] } as const;
  const states = ["AVAILABLE", "OFFLINE", "BEFORE_LEASE_HOOK_FAILED", "AFTER_LEASE_HOOK_FAILED"] as const;
  for (const state of [...(Object.keys(allowed) as (keyof typeof allowed)[]), ...states]) {
    session.status.set(state, "");
    for (const caller of [client, hook]) {
      const text = `Exporter not ready for driver calls (status: ${state})`;
      if ((allowed as Record<string, readonly WireClient[]>)[state]?.includes(caller)) {
        assert.equal(await caller.call(uuid, "add", [1]), 2);
      } else {
        assert.equal(await failure(caller.call(uuid, "add", [1])), `9 ${text}`);
        assert.equal((await ended(caller.streamingCall(uuid, "items", [1]))).details, text);
        const stream = await ended(caller.stream({ kind: "driver", uuid, method: "connect" }));
        assert.deepEqual([stream.code, stream.details], [9, text]);
        assert.equal((await ended(caller.stream({ kind: "resource", uuid }))).details, text);
      }
      assert.equal((await caller.report()).reports.length, 2);
    }
  }
});

test("the status tells version and previous state, and an ended session stays ready", async (t) => {
  const { client, session } = await start(t);
  const first = await client.status();
  assert.deepEqual(
    [first.status, first.message, first.statusVersion, first.previousStatus],
    [4, "Ready for commands", 2n, 2],
  );
  const { success } = await new Promise<{ success: boolean }>((resolve, reject) =>
    client.exporter.endSession({}, (error, response) => (error ? reject(error) : resolve(response))),
  );
  assert.equal(success, true);
  assert.equal(session.status.state, "LEASE_READY");
  session.status.set("LEASE_READY", "again");
  const second = await client.status();
  assert.deepEqual([second.status, second.statusVersion, second.previousStatus], [4, 3n, 4]);
  const reset = new Promise((resolve, reject) =>
    client.exporter.reset({}, (error, response) => (error ? reject(error) : resolve(response))),
  );
  assert.match(await failure(reset), /^12 /);
});

test("over TCP every RPC needs the passphrase; unix sockets do not", async (t) => {
  const { exporter } = await start(t);
  const warnings: string[] = [];
  exporter.logs.subscribe(({ severity, message }) => severity === "WARNING" && warnings.push(message));
  const served = await serve(createDirectSession(exporter), { host: "127.0.0.1", port: 0, passphrase: "sesame" });
  t.after(() => served.close(0));
  const metadata = new Metadata();
  metadata.set("x-jumpstarter-passphrase", "sesame");
  assert.equal((await new WireClient(t, served.address, metadata).report()).reports.length, 2);
  metadata.set("x-jumpstarter-passphrase", "sesam");
  const wrong = new WireClient(t, served.address, metadata);
  const none = new WireClient(t, served.address);
  const text = "invalid or missing passphrase";
  for (const client of [wrong, none]) {
    assert.equal(await failure(client.report()), `16 ${text}`);
    assert.equal((await ended(client.stream({ kind: "driver", uuid: "", method: "" }))).code, 16);
    assert.equal((await ended(client.logs())).code, 16);
  }
  assert.equal(warnings[0], `authentication failed: ${text} for method /jumpstarter.v1.ExporterService/GetReport`);
  assert.ok(warnings.every((warning) => !warning.includes("sesam")));
});

test("more calls at once than the limit are refused with a clear text", async (t) => {
  const { exporter, uuid, socketPath, state } = await start(t);
  const served = await serve(createDirectSession(exporter), {
    unix: `${socketPath}-2`,
    limits: { calls: 2, streams: 1 },
  });
  t.after(() => served.close(0));
  const client = new WireClient(t, `${socketPath}-2`);
  const waiting = [1, 2].map(() => client.exporter.driverCall({ uuid, method: "wait", args: [] }, () => {}));
  await eventually("two calls run", () => state.running === 2);
  assert.match(await failure(client.call(uuid, "add", [1])), /^8 this exporter serves no more than 2 driver calls/);
  for (const call of waiting) call.cancel();
  await eventually("they ended", () => state.running === 0);
  assert.equal(await client.call(uuid, "add", [1]), 2);
  const open = client.stream({ kind: "driver", uuid, method: "connect" });
  await once(open, "metadata");
  const refused = await ended(client.stream({ kind: "driver", uuid, method: "connect" }));
  assert.deepEqual([refused.code, refused.details], [8, "this exporter serves no more than 1 byte streams at once"]);
  open.cancel();
});

test("every log reader gets every record, a late one from the start, a slow one learns what it missed", async (t) => {
  const { client, exporter, uuid } = await start(t);
  const log = exporter.logs.logger({ source: "before-lease-hook", logger: "hook" });
  log.info("before anybody reads");
  const read = async (count: number) => {
    const call = client.logs();
    call.on("error", () => {});
    const records = [];
    for await (const record of call) {
      records.push(record as { message: string; source: number; severity: string; structuredFields: object });
      if (records.length >= count) break;
    }
    return records;
  };
  const early = [read(3), read(3)];
  await client.call(uuid, "add", [1]);
  const [one, two] = await Promise.all(early);
  assert.deepEqual(one, two);
  const late = await read(3);
  assert.deepEqual(late, one);
  assert.deepEqual(
    late.map(({ message, source, severity }) => [message, source, severity]),
    [
      ["before anybody reads", 2, "INFO"],
      ["Operation started", 1, "INFO"],
      ["Operation completed", 1, "INFO"],
    ],
  );
  assert.deepEqual(
    (late[2] as unknown as { operation: string; driverType: string; structuredFields: object; timestamp: Date }) && {
      ...(late[2] as object),
      timestamp: undefined,
    },
    {
      uuid: "",
      severity: "INFO",
      message: "Operation completed",
      source: 1,
      driverType: "rig",
      operation: "add",
      timestamp: undefined,
      structuredFields: { result: "success" },
    },
  );
  await failure(client.call(uuid, "fail", ["missing"]));
  assert.deepEqual((await read(5))[4]?.structuredFields, { result: "failure", error_type: "device_error" });

  const slow = client.logs();
  slow.on("error", () => {});
  await once(slow, "readable");
  slow.read();
  const long = "x".repeat(1000);
  for (let n = 0; n < 20_000; n += 1) log.info(long);
  log.info("the last one");
  const messages: string[] = [];
  for await (const record of slow) {
    const { message } = record as { message: string };
    messages.push(message);
    if (message === "the last one") break;
  }
  assert.ok(messages.some((message) => /^\d+ log records are missing here/.test(message)));
});

test("the advertised receive windows are large, and shrink when many streams share them", async (t) => {
  const { uuid, socketPath } = await start(t);
  const session = http2.connect("http://localhost", { createConnection: () => createConnection(socketPath) });
  t.after(() => session.destroy());
  const windows: (number | undefined)[] = [];
  session.on("remoteSettings", (settings: http2.Settings) => windows.push(settings.initialWindowSize));
  await once(session, "remoteSettings");
  assert.deepEqual(windows, [windowFor(1)]);
  assert.ok(windowFor(1) >= 16 * 1024 * 1024, "20 ms of round trip at 300 MB/s");
  assert.ok(windowFor(1000) * 1000 <= 256 * 1024 * 1024, "the sum stays bounded");
  await eventually("the connection's window is as open", () => (session.state.remoteWindowSize ?? 0) >= windowFor(1));
  const streams = Array.from({ length: 8 }, () =>
    session.request({
      ":method": "POST",
      ":path": "/jumpstarter.v1.RouterService/Stream",
      "content-type": "application/grpc",
      request: JSON.stringify({ kind: "driver", uuid, method: "connect" }),
    }),
  );
  await eventually("eight streams share it", () => windows.at(-1) === windowFor(8));
  for (const stream of streams) stream.close(http2.constants.NGHTTP2_CANCEL);
  await eventually("the window is wide again", () => windows.at(-1) === windowFor(1));
});

test("closing lets running calls finish within the grace and cancels the rest", async (t) => {
  const { exporter, uuid, state, socketPath } = await start(t);
  const served = await serve(createDirectSession(exporter), { unix: `${socketPath}-3` });
  const client = new WireClient(t, `${socketPath}-3`);
  const logs = ended(client.logs());
  const waiting = failure(client.call(uuid, "wait"));
  await eventually("the call runs", () => state.running === 1);
  await served.close(50);
  assert.match(await waiting, /^(1|14) /);
  await eventually("its driver was aborted", () => state.running === 0);
  await logs;
});

test("a socket file left by a process that died is taken over, one in use is not", async (t) => {
  const { exporter, socketPath } = await start(t);
  await assert.rejects(serve(createDirectSession(exporter), { unix: socketPath }), { code: "E_IO" });
  const other = await createExporter({ name: "x", export: {} });
  t.after(() => other.close());
  await writeFile(`${socketPath}-file`, "no socket");
  await assert.rejects(serve(createDirectSession(other), { unix: `${socketPath}-file` }), { code: "E_IO" });
  const listen = `require("net").createServer().listen(${JSON.stringify(`${socketPath}-old`)}, () => process.kill(process.pid, 9))`;
  spawnSync(process.execPath, ["-e", listen]);
  assert.ok((await stat(`${socketPath}-old`)).isSocket());
  const served = await serve(createDirectSession(other), { unix: `${socketPath}-old` });
  assert.equal((await stat(served.address)).mode & 0o777, 0o600);
  await served.close(0);
});
