// `jmp shell` and its relatives on exporters that the agent leases out through a controller: the scenarios of Jumpstarter's
// own e2e suite, with the unmodified Python client.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { ExporterStatus } from "../../proto/gen/jumpstarter/v1/common.ts";
import { scratch } from "../sim/agent.ts";
import { startController, type Lab } from "../sim/controller/controller.ts";
import { pythonClient } from "../sim/controller/python.ts";
import { startLeasedAgent, type LeasedAgent, type LeasedAgentOptions } from "../sim/leased-agent.ts";
import { jmp, leasedShell } from "../sim/leased-shell.ts";
import { clientProgram, missingClient, run } from "../sim/python-client.ts";

const exported = {
  power: { type: "jumpstarter_driver_power.driver.MockPower" },
  storage: { type: "jumpstarter_driver_opendal.driver.MockStorageMux" },
};

describe("leases, seen from jmp", { skip: missingClient("0.9.0"), concurrency: 4 }, () => {
  let lab: Lab;
  before(async () => {
    lab = await startController();
    for (const name of ["ann", "bob", "cyd"]) lab.addClient({ name });
  });
  after(async () => {
    await lab.close();
    assert.deepEqual(lab.records.problems, []);
  });

  let made = 0;
  const addExporter = () => {
    const name = `board-${++made}`;
    lab.addExporter({ name, labels: { board: name } });
    return { name, selector: `board=${name}` };
  };
  const lease = async (t: { after(done: () => unknown): void }, options: LeasedAgentOptions = {}) => {
    const exporter = addExporter();
    return { ...exporter, agent: await startLeasedAgent(t, lab, exporter.name, exported, options) };
  };
  const freeAgain = (name: string, agent: LeasedAgent) =>
    lab.ready(name, 60_000).catch((error: unknown) => {
      throw new Error(`the agent said:\n${agent.output()}`, { cause: error });
    });
  const gone = (agent: LeasedAgent) => Promise.race([agent.exited, sleep(60_000, "runs on", { ref: false })]);

  test("an exporter is leased by selector, by name, and by both, one lease after the other", async (t) => {
    const { name, selector, agent } = await lease(t);
    for (const words of [
      ["--selector", selector],
      ["--name", name],
      ["--name", name, "--selector", selector],
    ]) {
      const { code, text } = await leasedShell(t, lab, words);
      assert.equal(code, 0, text + agent.output());
      assert.doesNotMatch(text, /interrupted|Traceback|ERROR/, "j's connection ends in good order");
      await freeAgain(name, agent);
    }
    assert.equal(agent.output().match(/power on/g)?.length, 3, agent.output());
    await agent.stop();
    assert.equal(lab.exporter(name).status, ExporterStatus.EXPORTER_STATUS_OFFLINE);
  });

  test("a client that is configured by its environment alone", async (t) => {
    const { name, selector, agent } = await lease(t);
    const home = scratch(t);
    const { code, stdout, stderr } = await run(
      clientProgram("0.9.0", "jmp"),
      ["shell", "--selector", selector, "--", clientProgram("0.9.0", "j"), "power", "on"],
      {
        env: {
          ...{ HOME: home, JMP_CLIENT_CONFIG_HOME: home, JMP_DRIVERS_ALLOW: "*" },
          ...{ JMP_NAMESPACE: lab.namespace, JMP_NAME: "ann" },
          ...{ JMP_ENDPOINT: lab.endpoint, JMP_TOKEN: lab.clientToken("ann"), JUMPSTARTER_GRPC_INSECURE: "1" },
        },
      },
    );
    assert.equal(code, 0, stdout + stderr + agent.output());
    await freeAgain(name, agent);
  });

  test("a lease that was made before serves several shells, and goes when it is deleted", async (t) => {
    const { name, selector, agent } = await lease(t);
    const create = ["create", "lease", "--client", "ann", "--selector", selector, "--duration", "1d", "-o", "name"];
    const created = await jmp(t, lab, create);
    assert.equal(created.code, 0, created.text);
    const id = created.text.trim().split("\n").at(-1) ?? "";
    for (const command of [
      ["j", "power", "on"],
      ["j", "power", "off"],
    ]) {
      const { code, text } = await leasedShell(t, lab, ["--lease", id], { command });
      assert.equal(code, 0, text + agent.output());
    }
    assert.match(agent.output(), /power on[^]*power off/);
    const removed = await jmp(t, lab, ["delete", "leases", "--client", "ann", id]);
    assert.equal(removed.code, 0, removed.text);
    await freeAgain(name, agent);
  });

  test("a lease that is transferred: the old client is cut off and told, the new one works", async (t) => {
    const { name, selector, agent } = await lease(t);
    const create = ["create", "lease", "--client", "ann", "--selector", selector, "--duration", "1d", "-o", "name"];
    const id = (await jmp(t, lab, create)).text.trim().split("\n").at(-1) ?? "";
    const moved = join(scratch(t), "moved");
    const script = `j power on; until [ -e ${moved} ]; do sleep 0.1; done; j power off`;
    const old = leasedShell(t, lab, ["--lease", id], { command: ["sh", "-c", script] });
    await lab.waitFor(() => agent.output().includes("power on"), { what: "the first client", timeoutMs: 60_000 });
    const dialled = new Set(lab.records.dials.filter((dial) => dial.lease === id).map(({ stream }) => stream));

    const update = await jmp(t, lab, ["update", "lease", "--client", "ann", "--to-client", "bob", id]);
    assert.equal(update.code, 0, update.text);
    const open = () => lab.records.tunnels.filter(({ stream, ended }) => dialled.has(stream) && ended < 2);
    await lab.waitFor(() => open().length === 0, { what: "the old client's tunnels to be cut" });
    writeFileSync(moved, "");
    const next = leasedShell(t, lab, ["--lease", id], {
      client: "bob",
      command: ["j", "power", "cycle", "--wait", "0"],
    });

    const [{ code, text }, bob] = await Promise.all([old, next]);
    assert.notEqual(code, 0, text);
    assert.match(text, /transferred to another client/i);
    assert.equal(bob.code, 0, bob.text + agent.output());
    lab.deleteLease(id);
    await freeAgain(name, agent);
  });

  test("a client that is killed in its shell costs its lease and nothing else", async (t) => {
    const { name, selector, agent } = await lease(t, { hooks: { afterLease: { script: "j power off; echo AFTER" } } });
    const client = pythonClient(t, lab, "0.9.0", "ann");
    const words = ["shell", "--client", "ann", "--selector", selector, "--exporter-logs", "--"];
    const shell = spawn(clientProgram("0.9.0", "jmp"), [...words, "sh", "-c", "j power on; sleep 60"], {
      env: { ...process.env, ...client.env },
      stdio: "ignore",
      detached: true,
    });
    const ended = once(shell, "exit");
    const kill = () =>
      void (shell.exitCode === null && shell.signalCode === null && process.kill(-(shell.pid ?? 0), 9));
    t.after(kill);
    await lab.waitFor(() => agent.output().includes("power on"), { what: "the client's call", timeoutMs: 60_000 });
    kill();
    await ended;
    lab.deleteLease(lab.records.dials.map((dial) => dial.lease).find((id) => lab.lease(id).exporter === name) ?? "");
    await freeAgain(name, agent);
    await lab.waitFor(() => agent.output().includes("AFTER"), { what: "the hook after the lease" });
    const { code, text } = await leasedShell(t, lab, ["--selector", selector]);
    assert.equal(code, 0, text + agent.output());
    assert.doesNotMatch(agent.output(), /ERROR|Exception/);
    const offline = lab.records.statuses.filter((told) => told.exporter === name && told.name === "OFFLINE");
    assert.deepEqual(offline, []);
  });

  test("a name that no exporter has fails at once", async (t) => {
    const started = performance.now();
    const { code, text } = await leasedShell(t, lab, ["--name", "no-such-board"]);
    assert.notEqual(code, 0);
    assert.match(text, /cannot be satisfied/);
    assert.ok(performance.now() - started < 30_000);
  });

  test("what a lease's creator noted on it is in each line of the log", async (t) => {
    const { name, agent } = await lease(t, { args: ["--log-format", "json"] });
    const context = { build_id: "nightly-42", image_digest: "sha256:abc" };
    const { name: id } = lab.createLease({ client: "ann", exporterName: name, context });
    const { code, text } = await leasedShell(t, lab, ["--lease", id]);
    assert.equal(code, 0, text + agent.output());
    const lines = agent.output().trim().split("\n");
    const records = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    const power = records.find(({ msg }) => msg === "power on");
    for (const [key, value] of Object.entries({ ...context, lease_id: id, client: "ann", exporter: name })) {
      assert.equal(power?.[key], value, JSON.stringify(power));
    }
    lab.deleteLease(id);
    await freeAgain(name, agent);
  });

  test("a client that waits for an exporter gets it when it starts", async (t) => {
    const { name, selector } = addExporter();
    const shell = leasedShell(t, lab, ["--selector", selector], { client: "cyd" });
    const waits = () => lab.records.calls.some(({ rpc, caller }) => rpc === "CreateLease" && caller === "cyd");
    await lab.waitFor(waits, { what: "the client's wish", timeoutMs: 60_000 });
    const agent = await startLeasedAgent(t, lab, name, exported, { readyMs: 0 });
    const { code, text } = await shell;
    assert.equal(code, 0, text + agent.output());
    await freeAgain(name, agent);
  });

  test("exitOnLeaseEnd: the agent serves one lease, and ends", async (t) => {
    const { name, selector, agent } = await lease(t, { config: { exitOnLeaseEnd: true } });
    const { code, text } = await leasedShell(t, lab, ["--selector", selector]);
    assert.equal(code, 0, text + agent.output());
    assert.equal(await gone(agent), 0, agent.output());
    assert.equal(lab.exporter(name).status, ExporterStatus.EXPORTER_STATUS_OFFLINE);
  });

  test("exitOnLeaseEnd: without a lease the agent stays", async (t) => {
    const { agent } = await lease(t, { args: ["--exit-on-lease-end"] });
    assert.equal(await Promise.race([agent.exited, sleep(10_000, "runs on")]), "runs on", agent.output());
    await agent.stop();
  });

  test("a token that is refused is not in the log", async (t) => {
    const { name } = addExporter();
    const token = lab.exporterToken(name);
    lab.refuseTokens(name);
    const agent = await startLeasedAgent(t, lab, name, exported, { readyMs: 0 });
    const refused = () =>
      lab.records.calls.some(({ caller, rpc, code }) => caller === name && rpc === "Register" && code);
    await lab.waitFor(refused, { what: "a refused registration" });
    assert.equal(await Promise.race([agent.exited, sleep(1_000, "runs on")]), "runs on", agent.output());
    await agent.stop();
    assert.ok(!agent.output().includes(token));
    assert.match(agent.output(), /failed to authenticate token/);
  });

  test("the pytest fixture in a shell", async (t) => {
    const { name, selector, agent } = await lease(t);
    const file = join(scratch(t), "test_board.py");
    const lines = [
      "from jumpstarter_testing.pytest import JumpstarterTest",
      "class TestBoard(JumpstarterTest):",
      "    def test_power(self, client):",
      "        client.power.on()",
      "        assert len(list(client.power.read())) > 0",
      "    def test_storage(self, client):",
      "        client.storage.dut()",
    ];
    writeFileSync(file, lines.join("\n") + "\n");
    const command = [clientProgram("0.9.0", "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", file];
    const { code, text } = await leasedShell(t, lab, ["--selector", selector], { command });
    assert.equal(code, 0, text + agent.output());
    assert.match(text, /2 passed/);
    await freeAgain(name, agent);
  });

  test("a program that leases and calls at once, without asking whether the hook is done", async (t) => {
    const { name, selector, agent } = await lease(t, {
      hooks: { beforeLease: { script: "sleep 1; echo prepared" } },
    });
    const home = scratch(t);
    mkdirSync(join(home, "clients"));
    writeFileSync(join(home, "clients", "default.yaml"), stringify(lab.clientConfig("ann")), { mode: 0o600 });
    const lines = [
      "from datetime import timedelta",
      "from jumpstarter.config.client import ClientConfigV1Alpha1",
      'config = ClientConfigV1Alpha1.load("default")',
      `with config.lease(selector="${selector}", duration=timedelta(minutes=5)) as lease:`,
      "    with lease.connect() as client:",
      "        client.power.on()",
      "    with lease.connect() as client:",
      "        client.power.off()",
    ];
    const { code, stdout, stderr } = await run(clientProgram("0.9.0", "python"), ["-c", lines.join("\n")], {
      env: { JMP_CLIENT_CONFIG_HOME: home, PYTHONDONTWRITEBYTECODE: "1" },
    });
    assert.equal(code, 0, stdout + stderr + agent.output());
    assert.match(agent.output(), /prepared[^]*power on[^]*power off/);
    await freeAgain(name, agent);
  });
});
