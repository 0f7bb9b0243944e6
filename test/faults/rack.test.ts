// Many exporters in one process, as users run them: all can be leased at once, and each changes and ends by itself.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { stringify } from "yaml";
import { scratch } from "../sim/agent.ts";
import { startController, type Lab } from "../sim/controller/controller.ts";
import { benchDrivers, runtimeDirectory, setUpBench, until } from "../sim/lease-bench.ts";
import { leaseClient } from "../sim/lease-client.ts";

const drivers = { power: { type: "jumpstarter_driver_power.driver.MockPower" } };
const more = { ...drivers, second: drivers.power };

/** A directory of configurations, and `jmp-agent` of the user whom it belongs to. */
async function rack(t: TestContext, names: readonly string[]) {
  const lab = await startController();
  t.after(() => lab.close());
  const home = scratch(t);
  const directory = join(home, "exporters");
  mkdirSync(directory);
  for (const name of [...names, "new"]) lab.addExporter({ name });
  lab.addClient({ name: "ann" });
  const file = (name: string) => join(directory, `${name}.yaml`);
  const write = (name: string, exported: object, extra: object = {}) =>
    writeFileSync(file(name), stringify({ ...lab.exporterConfig(name, { ...exported }), ...extra }));
  for (const name of names) write(name, drivers);
  const env = {
    // Agents of other tests have their sockets where temporary files are.
    ...{ ...process.env, XDG_RUNTIME_DIR: runtimeDirectory(home), RUNTIME_DIRECTORY: "", TMPDIR: home },
    JMP_CLIENT_CONFIG_HOME: home,
  };
  const start = (...words: string[]) => {
    const child = spawn(process.execPath, ["dist/jmp-agent.js", ...words], { env, stdio: ["ignore", "pipe", "pipe"] });
    t.after(() => child.kill("SIGKILL"));
    let printed = "";
    for (const output of [child.stdout, child.stderr])
      output.on("data", (data: Buffer) => (printed += data.toString()));
    const exited = once(child, "close").then(() => child.exitCode);
    return {
      pid: child.pid ?? -1,
      output: () => printed,
      exited,
      kill: (signal: NodeJS.Signals) => child.kill(signal),
    };
  };
  /** A command that asks the running agents. */
  const ask = async (...words: string[]) => {
    const program = start(...words);
    return {
      code: await program.exited,
      lines: program
        .output()
        .replaceAll(/^agent \d+: /gm, "")
        .trim()
        .split("\n"),
    };
  };
  const run = async (...words: string[]) => {
    const agent = start("run", "--log-format", "text", ...words);
    return agent;
  };
  const reload = (...words: string[]) => ask("reload", ...words);
  return { lab, file, write, run, ask, reload };
}

/** How many drivers an exporter has registered last, without the root. */
function registered(lab: Lab, name: string): number {
  return (lab.exporter(name).devices?.length ?? 0) - 1;
}

test("32 exporters of one process are all leased at once", { timeout: 120_000 }, async (t) => {
  const exporters = Array.from({ length: 32 }, (_, n) => `board-${n}`);
  const bench = await setUpBench(t, { exporters, drivers: benchDrivers });
  const connections = await Promise.all(exporters.map((name) => bench.lease(name, `lease-${name}`)));
  for (const name of exporters) assert.equal((await bench.show(name))?.lease, `lease-${name}`, bench.agent.output());
  const answers = await Promise.all(connections.map(async (connection) => await connection.find("power")?.call("on")));
  assert.deepEqual(
    answers,
    exporters.map(() => null),
  );
  for (const name of exporters) bench.lab.deleteLease(`lease-${name}`);
  await bench.agreeAndEnd(exporters);
});

test(
  "--all leaves out what is wrong; reload starts, changes, stops and refuses each by itself",
  { timeout: 120_000 },
  async (t) => {
    const { lab, file, write, run, reload } = await rack(t, ["idle", "leased", "gone"]);
    writeFileSync(
      file("wrong"),
      "apiVersion: jumpstarter.dev/v1alpha1\nkind: ExporterConfig\nmetadata: { name: wrong }\nexport: 7\n",
    );
    const agent = await run("--all");
    for (const name of ["idle", "leased", "gone"]) await lab.ready(name);
    assert.match(agent.output(), /Failed to load config:\s.*wrong\.yaml:4:9: export: must be a map/);

    lab.createLease({ client: "ann", exporterName: "leased", name: "l1" });
    const connection = await leaseClient(t, lab.clientConfig("ann")).connect("l1");
    await connection.find("power")?.call("on");
    write("new", drivers);
    write("idle", more);
    write("leased", more);
    rmSync(file("gone"));
    const { code, lines } = await reload();
    assert.equal(code, 1, "as one is refused");
    const told = lines.join("\n");
    assert.match(told, /^new: started$/m);
    assert.match(told, /^idle: changed now$/m);
    assert.match(told, /^leased: changes when its lease ends$/m);
    assert.match(told, /^gone: stops, at the end of its lease if it has one$/m);
    assert.match(told, /wrong\.yaml: refused, nothing is changed\n {2}.*wrong\.yaml:4:9: /);
    await lab.ready("new");
    await lab.waitFor(() => registered(lab, "idle") === 2, { what: "idle to register its second driver" });
    await lab.waitFor(() => lab.exporter("gone").devices === null, { what: "gone to say goodbye" });
    assert.equal(registered(lab, "leased"), 1);
    await connection.find("power")?.call("off");
    lab.deleteLease("l1");
    await lab.waitFor(() => registered(lab, "leased") === 2, { what: "leased to register its second driver" });

    write("idle", { power: { type: "no.such.Driver" } });
    rmSync(file("wrong"));
    const refused = await reload("--exporter", "idle");
    assert.deepEqual([refused.code, refused.lines[0]], [1, "idle: refused, nothing is changed"]);
    assert.match(refused.lines[1] ?? "", /idle\.yaml:\d+:\d+: .*no\.such\.Driver/);
    await lab.ready("idle");
    write("idle", more);
    assert.deepEqual(await reload("--exporter", "idle"), { code: 0, lines: ["idle: nothing has changed"] });
    agent.kill("SIGTERM");
    assert.equal(await agent.exited, 143, agent.output());
    assert.deepEqual(lab.records.problems, []);
  },
);

test("status tells leases, offline drivers, and a controller that does not answer", { timeout: 120_000 }, async (t) => {
  const { lab, write, run, ask } = await rack(t, ["free", "leased"]);
  const serial = { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "/dev/serial/by-id/none" } };
  write("leased", { ...drivers, serial });
  const nobody = await ask("status");
  assert.deepEqual([nobody.code, nobody.lines[0]], [1, "Error: no agent runs"]);
  const agent = await run("--all");
  for (const name of ["free", "leased"]) await lab.ready(name);
  lab.createLease({ client: "ann", exporterName: "leased", name: "l1" });
  await leaseClient(t, lab.clientConfig("ann")).connect("l1");
  const { code, lines } = await ask("status");
  assert.deepEqual([code, lines[0]], [0, "free    available"]);
  assert.match(lines[1] ?? "", /^ {2}leased {2}ready, lease l1 of ann since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$/);
  assert.match(lines[2] ?? "", /^ +serial is offline: .*\/dev\/serial\/by-id\/none/);
  const [free] = JSON.parse((await ask("status", "--json", "--pid", `${agent.pid}`)).lines.join("\n")) as unknown[];
  const expected = { exporter: "free", state: "available", online: true, lease: null, client: null, offline: [] };
  assert.deepEqual({ ...expected, ...(free as object) }, free);
  await lab.controller.stop();
  await until("the agent notices", async () => {
    const told = await ask("status");
    return told.code === 1 && /free +available, the controller does not answer/.test(told.lines.join("\n"));
  });
  agent.kill("SIGTERM");
  await agent.exited;
});

test("--watch takes over what changes, without being told", { timeout: 120_000 }, async (t) => {
  const { lab, file, write, run } = await rack(t, ["one", "two"]);
  const agent = await run("--exporter", "one", "--exporter", "two", "--watch");
  for (const name of ["one", "two"]) await lab.ready(name);
  write("one", more);
  await lab.waitFor(() => registered(lab, "one") === 2, { what: "one to register its second driver" });
  writeFileSync(file("two"), "{");
  await until("the wrong file is told", async () => /two\.yaml is not taken over by two/.test(agent.output()));
  assert.equal(registered(lab, "two"), 1);
  agent.kill("SIGTERM");
  assert.equal(await agent.exited, 143, agent.output());
});

test("SIGHUP ends the agent when its last lease is over", { timeout: 120_000 }, async (t) => {
  const { lab, run } = await rack(t, ["busy", "free"]);
  const agent = await run("--all");
  for (const name of ["busy", "free"]) await lab.ready(name);
  lab.createLease({ client: "ann", exporterName: "busy", name: "l1" });
  const connection = await leaseClient(t, lab.clientConfig("ann")).connect("l1");
  agent.kill("SIGHUP");
  await lab.waitFor(() => lab.exporter("free").devices === null, { what: "the free one to say goodbye" });
  await connection.find("power")?.call("on");
  assert.equal(lab.lease("l1").ended, false);
  lab.deleteLease("l1");
  assert.equal(await agent.exited, 129, agent.output());
  assert.equal(lab.exporter("busy").devices, null);
});

test("SIGTERM in a hook lets it end, and the hook after the lease run", { timeout: 120_000 }, async (t) => {
  const { lab, write, run } = await rack(t, ["board"]);
  const directory = scratch(t);
  const mark = (name: string) => join(directory, name);
  const script = `touch ${mark("begun")}; while [ ! -e ${mark("go")} ]; do sleep 0.05; done; touch ${mark("before")}`;
  write("board", drivers, {
    hooks: { beforeLease: { script }, afterLease: { script: `echo "$LEASE_NAME" > ${mark("after")}` } },
  });
  const agent = await run("--exporter", "board");
  await lab.ready("board");
  lab.createLease({ client: "ann", exporterName: "board", name: "l1" });
  await until("the hook runs", async () => existsSync(mark("begun")));
  agent.kill("SIGTERM");
  await until("the signal is heard", async () => agent.output().includes("SIGTERM: stopping"));
  writeFileSync(mark("go"), "");
  assert.equal(await agent.exited, 143, agent.output());
  assert.ok(existsSync(mark("before")), "the first hook has ended by itself");
  assert.equal(readFileSync(mark("after"), "utf8"), "l1\n");
  assert.equal(lab.exporter("board").devices, null);
  assert.ok(lab.lease("l1").ended, "the lease is given back");
});

test(
  "an exporter whose hook asks to exit leaves alone, and its exit code is the agent's in the end",
  { timeout: 120_000 },
  async (t) => {
    const { lab, write, run } = await rack(t, ["well", "ill"]);
    write("ill", drivers, { hooks: { beforeLease: { script: "exit 3", onFailure: "exit" } } });
    const agent = await run("--exporter", "well", "--exporter", "ill");
    for (const name of ["well", "ill"]) await lab.ready(name);
    lab.createLease({ client: "ann", exporterName: "ill", name: "l1" });
    await lab.waitFor(() => lab.exporter("ill").devices === null, { what: "the exporter to leave" });
    lab.createLease({ client: "ann", exporterName: "well", name: "l2" });
    const connection = await leaseClient(t, lab.clientConfig("ann")).connect("l2");
    await connection.find("power")?.call("on");
    agent.kill("SIGTERM");
    assert.equal(await agent.exited, 1, agent.output());
  },
);
