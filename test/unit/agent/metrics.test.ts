import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { FlashLog } from "../../../agent/ops/flash-log.ts";
import { driversStatus, type ExporterStatus } from "../../../agent/ops/exporter-status.ts";
import { createMetrics } from "../../../agent/ops/metrics/agent-metrics.ts";
import { Registry } from "../../../agent/ops/metrics/registry.ts";
import { ReceiptStore } from "../../../agent/ops/receipts/store.ts";
import { observeTogether, watchLeasesTogether } from "../../../agent/ops/watch-together.ts";
import { scratch } from "../../sim/agent.ts";
import { startExporter } from "../../sim/exporter.ts";
import { createRig, eventually } from "../../sim/rig.ts";
import { ended, failure, frame, WireClient } from "../../sim/wire.ts";

/** Samples by name and labels. */
async function samples(registry: Registry): Promise<Map<string, number>> {
  const lines = (await registry.text()).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => {
      const space = line.lastIndexOf(" ");
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}

const exporterStatus = (more: Partial<ExporterStatus> = {}): ExporterStatus => ({
  ...{ exporter: "test", config: "", state: "available", registered: true, online: true, connections: 2 },
  ...{ lease: null, client: null, leaseSince: null, offline: [], drivers: [], transfers: [], flashing: [], ...more },
});

describe("registry", () => {
  test("counters, gauges and histograms as the text format has them", async () => {
    const registry = new Registry();
    const calls = registry.counter("calls_total", "Calls\\of\nall", "code");
    calls.add(1, "OK");
    calls.add(2, "OK");
    calls.add(1, 'a"b\\c\nd');
    registry.gauge("level", "Level.").set(-0.5);
    registry.gauge("unset", "Never told.");
    const seconds = registry.histogram("seconds", "Time.", [1, 10], "kind");
    for (const value of [0.5, 1, 2, 100]) seconds.observe(value, "x");
    assert.equal(
      await registry.text(),
      [
        "# HELP calls_total Calls\\\\of\\nall",
        "# TYPE calls_total counter",
        'calls_total{code="OK"} 3',
        'calls_total{code="a\\"b\\\\c\\nd"} 1',
        "# HELP level Level.",
        "# TYPE level gauge",
        "level -0.5",
        "# HELP seconds Time.",
        "# TYPE seconds histogram",
        'seconds_bucket{kind="x",le="1"} 2',
        'seconds_bucket{kind="x",le="10"} 3',
        'seconds_bucket{kind="x",le="+Inf"} 4',
        'seconds_sum{kind="x"} 103.5',
        'seconds_count{kind="x"} 4',
        "",
      ].join("\n"),
    );
  });

  test("what clients name does not fill the memory, and is counted all the same", async () => {
    const registry = new Registry();
    const calls = registry.counter("calls_total", "Calls.", "method", "code");
    for (let index = 0; index < 10_000; index += 1) calls.add(1, `m${index}`, "OK");
    const found = await samples(registry);
    assert.equal(found.size, 2_001);
    assert.equal(found.get('calls_total{method="other",code="other"}'), 8_000);
    assert.equal(
      [...found.values()].reduce((sum, value) => sum + value, 0),
      10_000,
    );
  });

  test("labels that look alike together are not the same", async () => {
    const registry = new Registry();
    const calls = registry.counter("calls_total", "Calls.", "a", "b");
    calls.add(1, "xy", "z");
    calls.add(1, "x", "yz");
    assert.equal((await samples(registry)).size, 2);
  });
});

describe("what an agent does", () => {
  async function watched(t: TestContext) {
    const rig = createRig();
    const { exporter, session, socketPath } = await startExporter(t, { rig: rig.entry }, { catalog: rig.catalog });
    const metrics = createMetrics("1.0.0", () => [exporterStatus(driversStatus(exporter.tree))]);
    t.after(() => metrics.close());
    metrics.opened(exporter);
    const client = new WireClient(t, socketPath);
    const uuid = await client.uuid("rig");
    return { metrics, session, client, uuid, exporter };
  }

  test("calls and streams move exactly what they are", async (t) => {
    const { metrics, session, client, uuid } = await watched(t);
    session.observer = metrics.observer("test");
    await client.call(uuid, "add", [1, 2]);
    await client.call(uuid, "add", [3, 4]);
    await failure(client.call(uuid, "fail", ["timeout"]));
    await failure(client.call(uuid, "no_such_method"));
    const stream = client.stream({ kind: "driver", uuid, method: "connect" });
    stream.write({ payload: Buffer.from("hello"), frameType: frame.data });
    await once(stream, "data");
    stream.write({ payload: Buffer.alloc(0), frameType: frame.goaway });
    stream.end();
    await ended(stream);
    const of = 'exporter="test",driver_type="rig.driver.Rig"';
    await eventually("it is counted", async () =>
      (await samples(metrics.registry)).has('jumpstarter_streams_total{exporter="test",kind="driver",code="OK"}'),
    );
    const now = await samples(metrics.registry);
    assert.equal(now.get(`jumpstarter_driver_calls_total{${of},method="add",code="OK"}`), 2);
    assert.equal(now.get(`jumpstarter_driver_calls_total{${of},method="fail",code="E_TIMEOUT"}`), 1);
    assert.equal(now.get(`jumpstarter_driver_calls_total{${of},method="?",code="E_NO_METHOD"}`), 1);
    assert.equal(now.get('jumpstarter_driver_call_duration_seconds_count{driver_type="rig.driver.Rig"}'), 4);
    assert.equal(now.get('jumpstarter_stream_bytes_total{exporter="test",kind="driver",direction="received"}'), 5);
    assert.equal(now.get('jumpstarter_stream_bytes_total{exporter="test",kind="driver",direction="sent"}'), 5);
    assert.equal(now.get('jumpstarter_driver_up{exporter="test",driver="rig",driver_type="rig.driver.Rig"}'), 1);
  });

  test("leases are counted once, by how they ended", async () => {
    const metrics = createMetrics("1.0.0", () => [exporterStatus({ lease: "l", state: "ready" })]);
    const lease = metrics.leases.begin({ exporter: "test", lease: "l", client: "c" });
    lease.end({ outcome: "completed" });
    lease.end({ outcome: "completed" });
    const now = await samples(metrics.registry);
    metrics.close();
    assert.equal(now.get('jumpstarter_leases_total{exporter="test",outcome="completed"}'), 1);
    assert.equal(now.get('jumpstarter_lease_duration_seconds_count{exporter="test"}'), 1);
    assert.equal(now.get('jumpstarter_leases_active{exporter="test"}'), 1);
    assert.equal(now.get('jumpstarter_exporter_state{exporter="test",state="ready"}'), 1);
    assert.equal(now.get('jumpstarter_controller_connections_total{exporter="test"}'), 2);
  });

  test("a console's bytes and lines, and a board that has booted", async (t) => {
    const { exporter, socketPath } = await startExporter(t, {
      serial: {
        type: "jumpstarter_driver_pyserial.driver.PySerial",
        config: { url: "loop://", record: { max_files: 0, boot_pattern: "login:" } },
      },
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
    });
    const metrics = createMetrics("1.0.0", () => [exporterStatus(driversStatus(exporter.tree))]);
    t.after(() => metrics.close());
    metrics.opened(exporter);
    const client = new WireClient(t, socketPath);
    await client.call(await client.uuid("power"), "on");
    const stream = client.stream({ kind: "driver", uuid: await client.uuid("serial"), method: "connect" });
    stream.write({ payload: Buffer.from("U-Boot\nlinux\nlogin: "), frameType: frame.data });
    const of = '{exporter="test",driver="serial"}';
    await eventually("it has booted", async () =>
      (await samples(metrics.registry)).has(`jumpstarter_board_boot_duration_seconds_count${of}`),
    );
    const now = await samples(metrics.registry);
    assert.equal(now.get(`jumpstarter_console_lines_total${of}`), 2);
    assert.equal(now.get(`jumpstarter_console_received_bytes_total${of}`), 20);
    assert.equal(now.get(`jumpstarter_console_sent_bytes_total${of}`), 20);
    assert.equal(now.get(`jumpstarter_board_boot_duration_seconds_count${of}`), 1);
    stream.on("error", () => {});
    stream.cancel();
  });

  test("what boards fetch over HTTP, and what they do not get", async (t) => {
    const root = join(scratch(t), "files");
    mkdirSync(root, { recursive: true });
    writeFileSync(join(root, "kernel"), Buffer.alloc(100_000, 1));
    const { exporter, socketPath } = await startExporter(t, {
      http: {
        type: "jumpstarter_driver_http.driver.HttpServer",
        config: { root_dir: root, host: "127.0.0.1", port: 0 },
      },
    });
    const metrics = createMetrics("1.0.0", () => [exporterStatus(driversStatus(exporter.tree))]);
    t.after(() => metrics.close());
    metrics.opened(exporter);
    const client = new WireClient(t, socketPath);
    const uuid = await client.uuid("http");
    await client.call(uuid, "start");
    const url = String(await client.call(uuid, "get_url"));
    assert.equal((await (await fetch(`${url}/kernel`)).arrayBuffer()).byteLength, 100_000);
    assert.equal((await fetch(`${url}/missing`)).status, 404);
    const of = 'exporter="test",protocol="http",direction="to-board"';
    await eventually("both are counted", async () =>
      (await samples(metrics.registry)).has(`jumpstarter_transfers_total{${of},outcome="refused"}`),
    );
    const now = await samples(metrics.registry);
    assert.equal(now.get(`jumpstarter_transfers_total{${of},outcome="complete"}`), 1);
    assert.equal(now.get(`jumpstarter_transfers_total{${of},outcome="refused"}`), 1);
    assert.equal(now.get(`jumpstarter_transfer_bytes_total{${of}}`), 100_000);
  });

  test("a flash is counted when its receipt is there, one that was there before is not", async (t) => {
    const store = new ReceiptStore({ directory: join(scratch(t), "receipts") });
    const metrics = createMetrics("1.0.0", () => []);
    t.after(() => metrics.close());
    const flash = (exporter: string, verdict: "verified" | "failed") => {
      const id = store.newId(exporter);
      return store.end(id, {
        ...{ format: "jumpstarter-agent/flash-receipt/v1", id, exporter, verdict, driver: "storage", method: "block" },
        ...{ startedAt: new Date().toISOString(), durationMs: 45_000, image: { encoding: null } },
        steps: [{ name: "write", startMs: 0, durationMs: 30_000, verdict: "ok" }],
      });
    };
    await flash("early", "verified");
    const log = new FlashLog(store, metrics.flashed);
    assert.equal((await log.look()).length, 1);
    await flash("bench", "verified");
    await flash("bench", "failed");
    assert.deepEqual((await log.look()).map(({ exporter }) => exporter).sort(), ["bench", "bench", "early"]);
    await log.look();
    const now = await samples(metrics.registry);
    assert.equal(now.get('jumpstarter_flashes_total{exporter="bench",method="block",verdict="verified"}'), 1);
    assert.equal(now.get('jumpstarter_flashes_total{exporter="bench",method="block",verdict="failed"}'), 1);
    assert.ok(![...now.keys()].some((key) => key.includes("early")));
    assert.equal(now.get('jumpstarter_flash_duration_seconds_bucket{method="block",le="60"}'), 1);
    assert.equal(now.get('jumpstarter_flash_step_duration_seconds_count{method="block",step="write"}'), 2);
  });

  test("a loop that stands still is seen", async () => {
    const metrics = createMetrics("1.0.0", () => []);
    await sleep(50);
    const until = performance.now() + 1_300;
    while (performance.now() < until);
    await sleep(20);
    const now = await samples(metrics.registry);
    metrics.close();
    assert.ok((now.get("jumpstarter_agent_event_loop_lag_seconds_sum") ?? 0) > 0.2);
    assert.ok((now.get("jumpstarter_agent_event_loop_active_seconds_total") ?? 0) > 1);
    assert.ok((now.get("process_open_fds") ?? 0) > 3);
    assert.ok((now.get("process_resident_memory_bytes") ?? 0) > 1e7);
  });
});

test("audit log and metrics are told the same", () => {
  const told: string[] = [];
  const watcher = (name: string) => ({
    begin: () => {
      const tell = (what: string) => () => void told.push(`${name} ${what}`);
      const [call, stream, resource] = [tell("call"), tell("stream"), tell("resource")];
      return { call, stream, resource, client: tell("client"), event: tell("event"), end: tell("end") };
    },
  });
  assert.equal(watchLeasesTogether(undefined, undefined), undefined);
  assert.equal(observeTogether(undefined), undefined);
  const both = watchLeasesTogether(watcher("a"), undefined, watcher("b"))?.begin({
    exporter: "e",
    lease: "l",
    client: "c",
  });
  const done = { caller: "client", code: undefined, durationMs: 1 } as const;
  both?.call({ ...done, driver: "d", type: "t", method: "m" });
  both?.stream({ ...done, driver: "d", type: "t", method: "m", bytesIn: 1, bytesOut: 2 });
  both?.resource({ ...done, bytesIn: 1, bytesOut: 2 });
  both?.client("other");
  both?.event("beforeLease");
  both?.end({ outcome: "completed" });
  const all = ["call", "stream", "resource", "client", "event", "end"];
  assert.deepEqual(
    told,
    all.flatMap((what) => [`a ${what}`, `b ${what}`]),
  );
});
