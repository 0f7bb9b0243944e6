import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { status } from "@grpc/grpc-js";
import { ChannelPool } from "../../../agent/controller/channel-pool.ts";
import { createControllerClient } from "../../../agent/controller/controller-client.ts";
import { logEntry } from "../../../agent/controller/log-entry.ts";
import { startTelemetry } from "../../../agent/controller/telemetry.ts";
import { LogBus, type LogRecord } from "../../../agent/driver/log.ts";
import { startController, type ControllerOptions } from "../../sim/controller/controller.ts";
import { labSettings } from "../../sim/lab-settings.ts";
import { eventually } from "../../sim/rig.ts";
import { VirtualClock } from "../../sim/virtual-clock.ts";

const record = (more: Partial<LogRecord> = {}): LogRecord => ({
  ...{ time: new Date(1_000), severity: "INFO", message: "m", source: "driver", logger: "driver.X" },
  ...more,
});

async function setUp(t: TestContext, options: ControllerOptions) {
  const lab = await startController(options);
  t.after(() => lab.close());
  lab.addExporter({ name: "board" });
  const channels = new ChannelPool();
  t.after(() => channels.close());
  // Where no certificate is given, only an insecure exporter speaks plaintext.
  const settings = labSettings(lab, "board", { tls: { insecure: true } });
  const clock = new VirtualClock();
  const logs = new LogBus();
  const notes: string[] = [];
  const controller = createControllerClient({ settings: () => settings, channels });
  const telemetry = startTelemetry({
    ...{ controller, settings: () => settings, channels, logs, clock },
    note: (line) => void notes.push(line),
  });
  // Time passes faster than usual, so that what waits comes soon.
  const pass = setInterval(() => void clock.advance(500), 10);
  const stop = async () => {
    await telemetry.stop();
    clearInterval(pass);
    await clock.advance(0);
    assert.equal(clock.sleeping, 0);
  };
  t.after(stop);
  const log = logs.logger({ source: "driver", logger: "driver.MockPower", driverType: "MockPower", level: "DEBUG" });
  /** Says something until it is heard, as nobody says when telemetry begins. */
  const begun = async () => {
    const say = setInterval(() => log.error("begun?"), 10);
    try {
      await lab.waitFor(() => lab.records.logs.length > 0, { what: "the first record" });
    } finally {
      clearInterval(say);
    }
  };
  const messages = () => lab.records.logs.map(({ entry }) => entry.message).filter((message) => message !== "begun?");
  return { lab, logs, log, notes, stop, begun, messages };
}

test("an entry has the context's fields, and the record's own before them", () => {
  const entry = logEntry(
    record({ driverType: "MockPower", operation: "on", fields: { result: "ok", client: "bob", count: 3, yes: true } }),
    "board",
    { lease_id: "l1", client: "ann", build: "42" },
  );
  assert.deepEqual(entry, {
    ...{ timestamp: new Date(1_000), severity: "info", message: "m", component: "exporter", namespace: "" },
    ...{ exporter: "board", lease: "l1", client: "bob", operation: "on", result: "ok", driverType: "MockPower" },
    extraFields: { build: "42", count: "3", yes: "true" },
  });
});

test("extra fields are few and short, and no character is cut in two", () => {
  const many = Object.fromEntries(Array.from({ length: 30 }, (_, index) => [`key ${index}`, index]));
  const entry = logEntry(record({ fields: many }), "board", { ["k".repeat(100)]: `${"v".repeat(255)}😀` });
  const keys = Object.keys(entry.extraFields);
  assert.equal(keys.length, 16);
  assert.equal(keys[0], "k".repeat(64));
  assert.equal(entry.extraFields["k".repeat(64)], "v".repeat(255));
  assert.equal(logEntry(record({ message: "x".repeat(100_000) }), "board", {}).message.length, 16_384);
});

test("what is logged comes to the telemetry service with the lease it belongs to", async (t) => {
  const { lab, logs, log, stop, begun, messages, notes } = await setUp(t, { telemetry: {} });
  await begun();
  logs.context = { lease_id: "l1", client: "ann", build: "42" };
  log.info("switched on", { operation: "on", result: "ok" });
  logs.context = {};
  log.debug("not of interest");
  log.warn("after the lease");
  await lab.waitFor(() => messages().length === 2);
  const found = lab.records.logs.find(({ entry }) => entry.message === "switched on")?.entry;
  assert.deepEqual(
    [found?.severity, found?.exporter, found?.lease, found?.client, found?.operation, found?.result, found?.driverType],
    ["info", "board", "l1", "ann", "on", "ok", "MockPower"],
  );
  assert.deepEqual(found?.extraFields, { build: "42" });
  const last = lab.records.logs.find(({ entry }) => entry.message === "after the lease")?.entry;
  assert.equal(last?.lease, "");
  log.error("the last words");
  await stop();
  assert.equal(messages().at(-1), "the last words");
  log.error("too late");
  assert.deepEqual(notes, []);
});

test("the service says how severe a record must be", async (t) => {
  const { lab, log, begun, messages } = await setUp(t, { telemetry: { minSeverity: "error" } });
  await begun();
  log.warn("not of interest");
  log.error("of interest");
  await lab.waitFor(() => messages().length > 0);
  assert.deepEqual(messages(), ["of interest"]);
});

test("many records go in few batches that the service takes whole", { timeout: 60_000 }, async (t) => {
  const { lab, log, begun, messages } = await setUp(t, { telemetry: {} });
  await begun();
  const before = lab.records.calls.filter(({ rpc }) => rpc === "PushLogs").length;
  for (let index = 0; index < 3_000; index += 1) log.info(`record ${index}`);
  for (let index = 0; index < 200; index += 1) log.info(`dump ${index} ${"€".repeat(16_000)}`);
  await lab.waitFor(() => messages().length === 3_200, { what: "all records" });
  assert.deepEqual(
    messages().slice(0, 3_000),
    Array.from({ length: 3_000 }, (_, index) => `record ${index}`),
  );
  const pushed = lab.records.calls.filter(({ rpc }) => rpc === "PushLogs").length - before;
  assert.ok(pushed < 40, String(pushed));
});

test("a batch that fails once is sent again; one that fails twice is lost and said to be, not in the log", async (t) => {
  const { lab, log, logs, begun, messages, notes } = await setUp(t, { telemetry: {} });
  await begun();
  const seen: string[] = [];
  logs.subscribe(({ message }) => void seen.push(message));
  const once = lab.faults.answer("PushLogs", status.UNAVAILABLE, "busy", { times: 1 });
  log.info("first");
  await lab.waitFor(() => messages().includes("first"));
  assert.equal(once.count, 1);
  assert.deepEqual(notes, []);

  const fault = lab.faults.answer("PushLogs", status.UNAVAILABLE, "busy");
  log.info("second");
  await eventually("it is lost", () => notes.length > 0);
  fault.off();
  assert.deepEqual(notes, ["[telemetry] PushLogs failed, 1 entries dropped: busy"]);
  log.info("third");
  await lab.waitFor(() => messages().includes("third"));
  assert.deepEqual(messages(), ["first", "third"]);
  assert.deepEqual(seen, ["first", "second", "third"]);
});

test("hours without the service cost little memory and few lines", { timeout: 60_000 }, async (t) => {
  const { lab, log, begun, messages, notes } = await setUp(t, { telemetry: {} });
  await begun();
  const fault = lab.faults.swallow("PushLogs");
  log.info("swallowed");
  await lab.waitFor(() => fault.count > 0);
  for (let index = 0; index < 15_000; index += 1) log.info(`record ${index}`);
  fault.off();
  // The one that was swallowed ends at its deadline, in real time.
  await lab.waitFor(() => messages().includes("record 14999"), { what: "the youngest record" });
  assert.equal(messages().includes("record 4000"), false);
  assert.equal(messages().includes("record 5500"), true);
  assert.ok(notes.length <= 1, notes.join("\n"));
});

test("a stop does not wait for a service that does not answer", { timeout: 60_000 }, async (t) => {
  const { lab, log, begun, stop } = await setUp(t, { telemetry: {} });
  await begun();
  const fault = lab.faults.swallow("PushLogs");
  log.info("swallowed");
  await lab.waitFor(() => fault.count > 0);
  const startedMs = performance.now();
  await stop();
  assert.ok(performance.now() - startedMs < 9_000);
});

for (const release of ["0.9", "head"] as const) {
  test(`telemetry ends at once where a controller of ${release} has none`, async (t) => {
    const { lab, log, stop } = await setUp(t, { release });
    await lab.waitFor(() => lab.records.calls.length > 0 || release === "0.9");
    log.info("nobody hears");
    await stop();
    assert.deepEqual(lab.records.logs, []);
  });
}
