// The Can driver on virtual buses, called as its clients call it.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { connect } from "../../../../agent/client/connect.ts";
import { can } from "../../../../boards/can/interface.ts";
import type { CanMessage } from "../../../../boards/can/interface.ts";
import { startExporter } from "../../../sim/exporter.ts";

const type = "jumpstarter_driver_can.driver.Can";

function message(given: Partial<Omit<CanMessage, "data">> & { readonly text?: string }): CanMessage {
  const { text = "", ...more } = given;
  return {
    timestamp: 0,
    arbitration_id: 0,
    is_extended_id: true,
    is_remote_frame: false,
    is_error_frame: false,
    channel: null,
    dlc: null,
    data: Buffer.from(text).toString("base64"),
    is_fd: false,
    is_rx: true,
    bitrate_switch: false,
    error_state_indicator: false,
    ...more,
  };
}

const textOf = (received: CanMessage | null) => Buffer.from(received?.data ?? "", "base64").toString();

/** Drivers on one virtual bus, each with a typed client. */
async function startBuses(t: TestContext, ...configs: Record<string, unknown>[]) {
  const entries = configs.map((config, index) => [
    `can${index}`,
    { type, config: { interface: "virtual", channel: t.name, ...config } },
  ]);
  const { exporter, socketPath } = await startExporter(t, Object.fromEntries(entries) as never);
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = (index: number) => {
    const found = client.root.children.get(`can${index}`);
    assert.ok(found);
    return found;
  };
  const buses = configs.map((_, index) => node(index).as(can));
  return { exporter, node, buses: buses as [(typeof buses)[0], (typeof buses)[0], (typeof buses)[0]] };
}

test("what one sends, all others on the bus receive in order, with a time stamp and the channel", async (t) => {
  const { buses } = await startBuses(t, {}, {}, {});
  const before = Date.now() / 1000;
  await buses[0].send(message({ arbitration_id: 0x1fff_ffff, text: "a" }), null);
  await buses[1].send(message({ arbitration_id: 5, is_extended_id: false, is_remote_frame: true, dlc: 7 }));
  const [first, filtered] = await buses[2]._recv_internal(null);
  assert.equal(filtered, false);
  assert.ok(first !== null && first.timestamp >= before && first.timestamp <= Date.now() / 1000);
  assert.deepEqual(first, {
    ...message({ arbitration_id: 0x1fff_ffff, text: "a" }),
    timestamp: first.timestamp,
    channel: t.name,
    dlc: 1,
  });
  const [second] = await buses[2]._recv_internal(0);
  assert.deepEqual([second?.arbitration_id, second?.is_remote_frame, second?.dlc, second?.data], [5, true, 7, ""]);
  assert.equal(textOf((await buses[1]._recv_internal(0))[0]), "a");
  assert.equal((await buses[0]._recv_internal(0))[0]?.is_remote_frame, true);
  for (const bus of buses) assert.deepEqual(await bus._recv_internal(0), [null, false]);
});

test("64 bytes pass without being marked as FD, 65 do not", async (t) => {
  const { buses } = await startBuses(t, {}, {});
  await buses[0].send(message({ text: "x".repeat(64) }));
  assert.equal(textOf((await buses[1]._recv_internal(0))[0]).length, 64);
  await assert.rejects(buses[0].send(message({ text: "x".repeat(65) })), { code: "E_INVALID" });
  await assert.rejects(buses[0].send(message({ arbitration_id: 0x800, is_extended_id: false })), { code: "E_INVALID" });
  await assert.rejects(buses[0].send({ ...message({}), data: "abc" }), { code: "E_INVALID" });
  await assert.rejects(buses[0].send({} as never), { code: "E_INVALID" });
});

test("properties are those of python-can's virtual bus", async (t) => {
  const { buses } = await startBuses(t, {}, { fd: true });
  assert.equal(await buses[0].state(), 1);
  assert.equal(await buses[0].protocol(), 1);
  assert.equal(await buses[1].protocol(), 2);
  assert.equal(await buses[0].channel_info(), `Virtual bus channel ${t.name}`);
  for (const refused of [
    buses[0].state(2),
    buses[0].flush_tx_buffer(),
    buses[0]._apply_filters([{ can_id: 1, can_mask: 1 }]),
  ]) {
    await assert.rejects(refused, { code: "E_UNSUPPORTED" });
  }
  await assert.rejects(buses[0].state(4 as never), { code: "E_INVALID" });
  await assert.rejects(buses[0].restart(), { code: "E_UNSUPPORTED" });
});

test("a cancelled receive takes no frame with it, and others that wait get theirs in turn", async (t) => {
  const { node, buses } = await startBuses(t, {}, {});
  const gone = new AbortController();
  const cancelled = node(1).as(can, { signal: gone.signal })._recv_internal(null);
  const refused = assert.rejects(cancelled);
  await assert.doesNotReject(buses[1]._recv_internal(0.01));
  gone.abort();
  await refused;
  const [one, other] = [buses[1]._recv_internal(null), buses[1]._recv_internal(5)];
  await buses[0].send_frames([message({ text: "a" }), message({ text: "b" }), message({ text: "c" })]);
  assert.equal(textOf((await one)[0]), "a");
  assert.equal(textOf((await other)[0]), "b");
  assert.equal(textOf((await buses[1]._recv_internal(0))[0]), "c");
});

test("a full queue lets the oldest go, and counts them", async (t) => {
  const { buses } = await startBuses(t, {}, { rx_queue_size: 3 });
  for (const text of "abcde") await buses[0].send(message({ text }));
  assert.deepEqual(
    await buses[1]
      .status()
      .then(({ queued_frames, dropped_frames, state }) => ({ queued_frames, dropped_frames, state })),
    { queued_frames: 3, dropped_frames: 2, state: "error-active" },
  );
  const left = [];
  for (let index = 0; index < 3; index += 1) left.push(textOf((await buses[1]._recv_internal(0))[0]));
  assert.deepEqual(left, ["c", "d", "e"]);
});

test("the stream has every frame that passes its filters, and takes none from others", async (t) => {
  const { buses } = await startBuses(t, {}, {});
  const stream = buses[1].frames([{ can_id: 1, can_mask: 1 }])[Symbol.asyncIterator]() as AsyncIterator<
    CanMessage[],
    undefined
  >;
  const first = stream.next();
  // The stream is there once the driver has answered something that was asked after it.
  await buses[1].channel_info();
  const count = 2_000;
  for (let sent = 0; sent < count; sent += 500) {
    await buses[0].send_frames(Array.from({ length: 500 }, (_, index) => message({ arbitration_id: sent + index })));
  }
  const received = [...((await first).value ?? [])];
  while (received.length < count / 2) received.push(...((await stream.next()).value ?? []));
  assert.deepEqual(
    received.map(({ arbitration_id }) => arbitration_id),
    Array.from({ length: count / 2 }, (_, index) => 2 * index + 1),
  );
  await stream.return?.(undefined);
  assert.equal((await buses[1].status()).queued_frames, count);
});

test("after shutdown nothing works until the next lease, but stopping tasks does", async (t) => {
  const { exporter, buses } = await startBuses(t, {}, {});
  const task = await buses[0]._send_periodic_internal([message({})], 3600, null, false, null);
  const waiting = assert.rejects(buses[0]._recv_internal(null), /Cannot operate on a closed bus/);
  await buses[0].channel_info();
  assert.equal(await buses[0].shutdown(), null);
  await waiting;
  await assert.rejects(buses[0].send(message({})), { code: "E_FAILED", message: /Cannot operate on a closed bus/ });
  await buses[0].shutdown();
  await buses[0]._stop_task(task);
  await buses[1].send(message({ text: "nobody hears it" }));
  await exporter.tree.release();
  await exporter.tree.reset();
  await buses[1].send(message({ text: "new lease" }));
  assert.equal(textOf((await buses[0]._recv_internal(0))[0]), "new lease");
});

test("a lease leaves no frames, tasks or filters to the next one", async (t) => {
  const { exporter, buses } = await startBuses(t, {}, {});
  await buses[1].send(message({ text: "old" }));
  const task = await buses[0]._send_periodic_internal(message({}), 0.001);
  while ((await buses[1]._recv_internal(null))[0]?.data !== "");
  await exporter.tree.release();
  await exporter.tree.reset();
  await assert.rejects(buses[0]._stop_task(task), { code: "E_FAILED" });
  assert.deepEqual(await buses[0]._recv_internal(0), [null, false]);
  assert.deepEqual(await buses[1]._recv_internal(0.02), [null, false]);
});

test("periodic tasks send their messages by turns, wait for their start, end with their duration and can be started again", async (t) => {
  const { buses } = await startBuses(t, {}, {});
  const messages = [message({ arbitration_id: 7, text: "a" }), message({ arbitration_id: 7, text: "b" })];
  const task = await buses[0]._send_periodic_internal(messages, 0.01, 0.045, false);
  assert.deepEqual(await buses[1]._recv_internal(0.03), [null, false]);
  const next = async () => textOf((await buses[1]._recv_internal(null))[0]);
  for (const _ of ["first", "second"]) {
    await buses[0]._start_task(task);
    const received = [await next(), await next(), await next(), await next(), await next()];
    assert.equal(received.join(""), "ababa");
    assert.deepEqual(await buses[1]._recv_internal(0.03), [null, false]);
  }
  await buses[0]._stop_task(task);
  for (const unknown of [buses[0]._stop_task(task), buses[0]._start_task(task)]) {
    await assert.rejects(unknown, { code: "E_FAILED" });
  }
  for (const [wrong, text] of [
    [[], /at least a list or tuple of length 1/],
    [[message({}), message({ arbitration_id: 1 })], /All Arbitration IDs should be the same/],
    [[message({}), message({ channel: 1 })], /All Channel IDs should be the same/],
  ] as const) {
    await assert.rejects(buses[0]._send_periodic_internal([...wrong], 1), { code: "E_INVALID", message: text });
  }
  await assert.rejects(buses[0]._send_periodic_internal(messages, 0), { code: "E_INVALID" });
  for (let tasks = 0; tasks < 256; tasks += 1) await buses[0]._send_periodic_internal(messages, 3600, null, false);
  await assert.rejects(buses[0]._send_periodic_internal(messages, 3600), { code: "E_LIMIT" });
});

test("own frames come back where that is asked for", async (t) => {
  const { buses } = await startBuses(t, { receive_own_messages: true }, {});
  await buses[0].send(message({ text: "echo" }));
  const [own] = await buses[0]._recv_internal(0);
  assert.deepEqual([textOf(own), own?.is_rx], ["echo", false]);
  assert.equal((await buses[1]._recv_internal(0))[0]?.is_rx, true);
});

for (const [name, config, problem] of [
  [
    "another kind of interface",
    { interface: "pcan", channel: "PCAN_USBBUS1" },
    /CAN interface 'pcan' is not supported/,
  ],
  ["no interface", { interface: null, channel: null }, /neither by `interface` nor by CAN_INTERFACE/],
  [
    "socketcan without a name",
    { interface: "socketcan", channel: 0 },
    /needs the name of a network interface as channel/,
  ],
  ["a channel that is left out", { interface: "virtual" }, /channel/],
] as const) {
  test(`the configuration is refused: ${name}`, async (t) => {
    await assert.rejects(startExporter(t, { can: { type, config } }), { message: problem });
  });
}

test("an interface that is not there takes only its driver offline, which names it", async (t) => {
  const { exporter } = await startExporter(t, {
    can: { type: "jumpstarter_driver_can.Can", config: { interface: "socketcan", channel: "can97" } },
  });
  await assert.rejects(exporter.calls("can", can).state(), {
    code: "E_DEVICE_OFFLINE",
    message: /^no CAN interface can97; there is /,
  });
});

test("null takes interface and channel from the environment", async (t) => {
  process.env["CAN_INTERFACE"] = "virtual";
  process.env["CAN_CHANNEL"] = "of the environment";
  t.after(() => {
    delete process.env["CAN_INTERFACE"];
    delete process.env["CAN_CHANNEL"];
  });
  const { buses } = await startBuses(t, { interface: null, channel: null }, { channel: "of the environment" });
  await buses[0].send(message({ text: "x" }));
  assert.equal(textOf((await buses[1]._recv_internal(0))[0]), "x");
});
