// Long silences of the controller, its host and its name: an idle exporter stays, and a lease's bytes go on.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { ChannelPool } from "../../agent/controller/channel-pool.ts";
import { LogBus } from "../../agent/driver/log.ts";
import { SharedObjects } from "../../agent/driver/shared-objects.ts";
import { ConfigFile } from "../../agent/host/config-file.ts";
import { hostExporter, type HostedExporter } from "../../agent/host/hosted-exporter.ts";
import { scratch } from "../sim/agent.ts";
import { startController } from "../sim/controller/controller.ts";
import { pythonClient } from "../sim/controller/python.ts";
import { startLabProcess } from "../sim/controller/process-client.ts";
import { benchDrivers, runtimeDirectory, setUpBench, shown, startTraffic, until } from "../sim/lease-bench.ts";
import { leaseClient } from "../sim/lease-client.ts";
import { startLeasedAgent } from "../sim/leased-agent.ts";
import { missingClient } from "../sim/python-client.ts";
import { VirtualClock } from "../sim/virtual-clock.ts";

const boards = ["idle", "leased"];
const backMs = 5_000;

/** Longer than the time after which both sides of a connection take a silent peer for dead. */
const stillMs = 45_000;

describe("long silences", { concurrency: 8 }, () => {
  test("the controller is stopped for 30 s", { timeout: 180_000 }, async (t) => {
    const bench = await setUpBench(t, { exporters: boards });
    const { lab, agent } = bench;
    const connection = await bench.lease("leased", "first");
    const traffic = await startTraffic(t, connection);
    await lab.controller.stop();
    for (let second = 0; second < 30; second += 1) {
      await sleep(1_000);
      await traffic.moves();
    }
    const sinceMs = lab.records.nowMs();
    await lab.controller.start();
    await bench.back(boards, sinceMs);
    await traffic.moves();
    await bench.assertServed("leased", "first", connection);
    const complaints = agent.output().match(/WARN/g)?.length ?? 0;
    assert.ok(complaints <= 12, `${complaints} warnings in 30 s:\n${agent.output()}`);
    lab.deleteLease("first");
    await bench.agreeAndEnd(boards);
  });

  test("the controller is stopped for 10 minutes, and then for 2 hours", { timeout: 180_000 }, async (t) => {
    const { lab, clock, traffic, exporters, logged, connection } = await virtualBench(t);
    for (const minutes of [10, 120]) {
      const before = logged.length;
      await lab.controller.stop();
      for (let passed = 0; passed < minutes; passed += minutes / 40) {
        await clock.advance((minutes / 40) * 60_000);
        await traffic.moves();
      }
      assert.ok(logged.length - before < 30, `it says too much:\n${logged.slice(before).join("\n")}`);
      for (const exporter of exporters) assert.equal(exporter.status().online, false);
      const [returnedMs, sinceMs] = [clock.now(), lab.records.nowMs()];
      await lab.controller.start();
      const isBack = (name: string): boolean =>
        lab.exporter(name).statusStreams > 0 &&
        lab.records.statuses.some(({ exporter, atMs }) => exporter === name && atMs >= sinceMs);
      await pass(clock, () => boards.every(isBack));
      assert.ok(clock.now() - returnedMs <= backMs, `back after ${clock.now() - returnedMs} ms`);
      await traffic.moves();
      assert.equal(lab.lease("first").ended, false);
      const now = exporters.map((exporter) => exporter.status());
      const expected = [
        { exporter: "idle", state: "available", online: true, lease: null, client: null, offline: [] },
        { exporter: "leased", state: "ready", online: true, lease: "first", client: "ann", offline: [] },
      ];
      assert.deepEqual(
        now.map((status, index) => ({ ...status, ...expected[index] })),
        now,
      );
      assert.equal(logged.filter((line) => line.includes("Lease first begins")).length, 1);
    }
    await connection.find("power")?.call("on");
    lab.deleteLease("first");
    for (const name of boards) await lab.ready(name);
    assert.equal(exporters[1]?.status().state, "available");
  });

  test("a lease ends while the controller is away for 10 minutes", { timeout: 180_000 }, async (t) => {
    const { lab, clock, traffic, exporters } = await virtualBench(t);
    await lab.controller.stop();
    await clock.advance(300_000);
    lab.expire("first");
    await clock.advance(300_000);
    await traffic.moves();
    assert.equal(exporters[1]?.status().lease, "first");
    await lab.controller.start();
    await pass(clock, () => exporters[1]?.status().state === "available");
    await lab.waitFor(() => traffic.error, { what: "the client's connection to be cut" });
    await lab.ready("leased");
  });

  test("controller and router stand still for 45 s", { timeout: 180_000 }, async (t) => {
    const lab = await startLabProcess(t);
    const configs = new Map<string, object>();
    for (const name of boards) {
      await lab.addExporter({ name });
      configs.set(name, await lab.exporterConfig(name, benchDrivers));
    }
    await lab.addClient({ name: "ann" });
    const runtime = runtimeDirectory(scratch(t));
    const known = { exporterConfig: (name: string) => configs.get(name) ?? {}, ready: lab.ready };
    const agent = await startLeasedAgent(t, known, boards, benchDrivers, { env: { XDG_RUNTIME_DIR: runtime } });
    await lab.createLease({ client: "ann", exporterName: "leased", name: "first" });
    const connection = await leaseClient(t, await lab.clientConfig("ann")).connect("first");
    const traffic = await startTraffic(t, connection);
    await traffic.moves();

    lab.signal("SIGSTOP");
    await sleep(stillMs);
    const online = async (name: string) => (await shown(runtime, agent.pid, name))?.online;
    assert.deepEqual(await Promise.all(boards.map(online)), [false, false], "a silent controller is left");
    lab.signal("SIGCONT");
    const { nowMs: sinceMs } = await lab.records();
    for (const name of boards) {
      await until(`${name} to be back`, () => online(name), backMs);
    }
    await traffic.moves();
    await lab.untilStatus("leased", "LEASE_READY");
    assert.equal((await shown(runtime, agent.pid, "leased"))?.lease, "first");
    assert.equal(agent.output().split("Lease first begins").length, 2);
    await connection.find("power")?.call("on");
    await lab.deleteLease("first");
    for (const name of boards) await lab.ready(name);
    await until("the agent to be free", async () => (await shown(runtime, agent.pid, "leased"))?.state === "available");
    const { problems, statuses } = await lab.records();
    assert.ok(boards.every((name) => statuses.some(({ exporter, atMs }) => exporter === name && atMs >= sinceMs)));
    assert.deepEqual(problems, []);
  });

  test("the agent itself stands still for 45 s", { timeout: 180_000 }, async (t) => {
    const bench = await setUpBench(t, { exporters: boards });
    const { lab, agent } = bench;
    const connection = await bench.lease("leased", "first");
    const traffic = await startTraffic(t, connection);
    await traffic.moves();
    agent.kill("SIGSTOP");
    await sleep(stillMs);
    agent.kill("SIGCONT");
    await traffic.moves(backMs);
    for (const name of boards) await bench.untilShown(name, { online: true }, backMs);
    await bench.assertServed("leased", "first", connection);
    lab.deleteLease("first");
    await bench.agreeAndEnd(boards);
  });

  test("the controller's name cannot be resolved, then it can, and then not again", { timeout: 180_000 }, async (t) => {
    const directory = scratch(t);
    const [hosts, order] = [join(directory, "hosts"), join(directory, "nsswitch.conf")];
    const name = "controller.lab.test";
    const resolves = (does: boolean) => writeFileSync(hosts, `127.0.0.1 localhost${does ? ` ${name}` : ""}\n`);
    resolves(false);
    writeFileSync(order, "hosts: files\n");
    const mounts = `mount --bind '${hosts}' /etc/hosts && mount --bind '${order}' /etc/nsswitch.conf && exec "$@"`;
    const unshare = process.getuid?.() === 0 ? ["unshare"] : ["unshare", "--map-root-user"];
    const bench = await setUpBench(t, {
      exporters: boards,
      config: { grpcOptions: { "grpc.ssl_target_name_override": "localhost" } },
      wrapper: [...unshare, "--mount", "sh", "-c", mounts, "sh"],
      readyMs: 0,
      endpoint: ({ endpoint }) => endpoint.replace("127.0.0.1", name),
    });
    const { lab, agent } = bench;
    await lab.waitFor(() => agent.output().includes(name), { what: "a complaint about the name" });
    await sleep(3_000);
    let sinceMs = lab.records.nowMs();
    resolves(true);
    await bench.back(boards, sinceMs);

    const connection = await bench.lease("leased", "first");
    const traffic = await startTraffic(t, connection);
    await traffic.moves();
    resolves(false);
    lab.controller.reset();
    for (const board of boards) await bench.untilShown(board, { online: false });
    await sleep(5_000);
    await traffic.moves();
    sinceMs = lab.records.nowMs();
    resolves(true);
    await bench.back(boards, sinceMs);
    await traffic.moves();
    await bench.assertServed("leased", "first", connection);
    lab.deleteLease("first");
    await bench.agreeAndEnd(boards);
  });

  test("ReportStatus is never answered", { timeout: 120_000 }, async (t) => {
    const bench = await setUpBench(t, { exporters: ["board"] });
    const { lab } = bench;
    const swallowed = lab.faults.swallow("ReportStatus", { times: 1 });
    lab.createLease({ client: "ann", exporterName: "board", name: "first" });
    await bench.untilShown("board", { state: "ready", lease: "first" });
    await lab.waitFor(() => swallowed.count === 1);
    const told = () => lab.records.statuses.at(-1)?.name === "LEASE_READY";
    await lab.waitFor(told, { what: "the report to be tried again", timeoutMs: 45_000 });
    const connection = await bench.connect("ann", "first");
    await bench.assertServed("board", "first", connection);
    lab.deleteLease("first");
    await bench.agreeAndEnd(["board"]);
  });

  const skip = missingClient("0.9.0");
  test("the Python client streams through an outage of 6 s", { timeout: 180_000, skip }, async (t) => {
    const bench = await setUpBench(t, { exporters: ["board"] });
    const { lab } = bench;
    const directory = scratch(t);
    const [script, progress, finish] = ["stream.py", "progress", "finish"].map((file) => join(directory, file)) as [
      string,
      string,
      string,
    ];
    writeFileSync(script, streamForAWhile);
    const ann = pythonClient(t, lab, "0.9.0", "ann");
    const words = ["shell", "--client", "ann", "--name", "board", "--", "python", script, progress, finish];
    const shell = ann.jmp(words, { timeoutMs: 120_000 });
    shell.catch(() => {});
    const rounds = () => (existsSync(progress) ? Number(readFileSync(progress, "utf8")) : 0);
    await lab.waitFor(() => rounds() > 5, { what: "the client's stream", timeoutMs: 60_000 });
    await lab.controller.stop();
    await sleep(6_000);
    const during = rounds();
    await lab.waitFor(() => rounds() > during + 5, { what: "the stream during the outage" });
    const sinceMs = lab.records.nowMs();
    await lab.controller.start();
    await bench.back(["board"], sinceMs);
    const after = rounds();
    await lab.waitFor(() => rounds() > after + 5, { what: "the stream after the outage" });
    writeFileSync(finish, "");
    const { code, stdout, stderr } = await shell;
    assert.equal(code, 0, stdout + stderr);
    // The client's own connection to the controller may still be waiting for its next attempt.
    const [lease] = lab.records.dials.map((dial) => dial.lease);
    assert.ok(lease);
    lab.deleteLease(lease);
    await bench.agreeAndEnd(["board"]);
  });
});

const streamForAWhile = `
import os, sys, time
from jumpstarter.utils.env import env

_, progress, finish = sys.argv
with env() as client:
    with client.echo.stream() as stream:
        count = 0
        while not os.path.exists(finish):
            sent = b"%d" % count * 1000
            stream.send(sent)
            got = b""
            while len(got) < len(sent):
                got += stream.receive()
            assert got == sent
            count += 1
            with open(progress + ".new", "w") as file:
                file.write(str(count))
            os.rename(progress + ".new", progress)
            time.sleep(0.05)
`;

/** Lets time pass as it does until a condition holds: what needs sockets needs real time. */
async function pass(clock: VirtualClock, condition: () => boolean, limitMs = 20_000): Promise<void> {
  const beganMs = performance.now();
  for (let passedMs = 0; !condition(); await sleep(20)) {
    assert.ok(passedMs <= limitMs, `nothing within ${limitMs} ms`);
    const nowMs = performance.now() - beganMs;
    await clock.advance(nowMs - passedMs);
    passedMs = nowMs;
  }
}

/** Two exporters in this process whose time the test moves; the second one's lease is used. */
async function virtualBench(t: TestContext) {
  const lab = await startController();
  const directory = scratch(t);
  const env = { ...process.env, XDG_RUNTIME_DIR: runtimeDirectory(directory) };
  const clock = new VirtualClock();
  const channels = new ChannelPool();
  const logged: string[] = [];
  lab.addClient({ name: "ann" });
  const ended: string[] = [];
  const exporters: HostedExporter[] = [];
  const onHost = new SharedObjects<object>();
  for (const name of boards) {
    lab.addExporter({ name });
    const path = join(directory, `${name}.yaml`);
    writeFileSync(path, stringify(lab.exporterConfig(name, benchDrivers)));
    const logs = new LogBus();
    logs.subscribe(({ severity, message }) => logged.push(`${name} ${severity} ${message}`));
    const file = new ConfigFile(path);
    const { config } = await file.load();
    const exporter = hostExporter(file, config, logs, { clock, channels, env, audit: undefined, onHost });
    void exporter.run().finally(() => ended.push(name));
    exporters.push(exporter);
  }
  t.after(async () => {
    assert.deepEqual(lab.records.problems, []);
    assert.deepEqual(ended, [], "exporters that have ended");
    for (const exporter of exporters) exporter.stop("now", 0);
    await until("the exporters to end", async () => {
      await clock.advance(1_000);
      return ended.length === exporters.length;
    });
    await channels.close();
    await lab.close();
  });
  for (const name of boards) await lab.ready(name);
  lab.createLease({ client: "ann", exporterName: "leased", name: "first", durationMs: 24 * 3_600_000 });
  const connection = await leaseClient(t, lab.clientConfig("ann")).connect("first");
  const traffic = await startTraffic(t, connection);
  await traffic.moves();
  return { lab, clock, channels, logged, exporters, connection, traffic };
}
