// The unmodified Python exporter and the unmodified Python clients through our own controller and router: what the tests of
// the agent take a controller for is what the real ones get along with.
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { status } from "@grpc/grpc-js";
import { ExporterStatus } from "../../proto/gen/jumpstarter/v1/common.ts";
import { startController, type ControllerOptions, type Lab } from "../sim/controller/controller.ts";
import { pythonClient, startPythonExporter, type PythonClient } from "../sim/controller/python.ts";
import { clientVersions, missingClient } from "../sim/python-client.ts";

const newest = "0.9.0";
const power = { power: { type: "jumpstarter_driver_power.driver.MockPower" } };
const limitMs = 180_000;

describe("the lab with the Python exporter", { skip: missingClient(newest) }, () => {
  for (const version of clientVersions as string[]) {
    test(`client ${version} leases by selector and calls`, { skip: missingClient(version) }, async (t) => {
      const lab = await setUp(t);
      startPythonExporter(t, lab, newest, "board", power);
      await lab.ready("board", limitMs);

      const { code, stdout, stderr } = await pythonClient(t, lab, version, "ann").shell(
        ["--selector", "kind=board"],
        ["j", "power", "on"],
        limitMs,
      );
      // The client's log, with what it was that failed, is in its output.
      assert.equal(code, 0, stdout + stderr);
      const { records } = lab;
      assert.deepEqual(
        records.statuses.map(({ name }) => name).filter((name, index, all) => name !== all[index - 1]),
        ["AVAILABLE", "LEASE_READY", "AVAILABLE"],
      );
      assert.deepEqual(
        records.registers[0]?.reports.map(({ labels }) => labels["jumpstarter.dev/name"]),
        [undefined, "power"],
      );
      assert.ok(records.tunnels.some(({ callers, bytes }) => callers === 2 && bytes > 1000));
      await lab.ready("board", limitMs);
      assert.deepEqual(records.problems, []);
    });
  }

  test("hooks run around a lease, and their output reaches the client", async (t) => {
    const lab = await setUp(t);
    startPythonExporter(t, lab, newest, "board", power, {
      hooks: { beforeLease: { script: "echo BEFORE-$LEASE_NAME" }, afterLease: { script: "echo AFTER-$CLIENT_NAME" } },
    });
    await lab.ready("board", limitMs);
    const words = ["--exporter-logs", "--name", "board"];
    const { code, stdout, stderr } = await pythonClient(t, lab, newest, "ann").shell(
      words,
      ["j", "power", "on"],
      limitMs,
    );
    assert.equal(code, 0, stderr);
    const [lease] = lab.records.statuses.flatMap(({ lease }) => lease ?? []);
    assert.match(stdout + stderr, new RegExp(`BEFORE-${lease}[^]*AFTER-ann`));
    await lab.ready("board", limitMs);
    assert.deepEqual(
      lab.records.statuses.map(({ name }) => name).filter((name, index, all) => name !== all[index - 1]),
      ["AVAILABLE", "BEFORE_LEASE_HOOK", "LEASE_READY", "AFTER_LEASE_HOOK", "AVAILABLE"],
    );
    assert.deepEqual(lab.records.problems, []);
  });

  test("a lease is created, listed, transferred and deleted from the command line", async (t) => {
    const lab = await setUp(t);
    startPythonExporter(t, lab, newest, "board", power);
    await lab.ready("board", limitMs);
    const [ann, bob] = ["ann", "bob"].map((name) => pythonClient(t, lab, newest, name)) as [PythonClient, PythonClient];
    const jmp = async (client: PythonClient, words: string, expected = 0) => {
      const { code, stdout, stderr } = await client.jmp(words.split(" "), { timeoutMs: limitMs });
      assert.equal(code, expected, `jmp ${words}\n${stdout}\n${stderr}`);
      return stdout + stderr;
    };
    const created = await jmp(ann, "create lease --client ann --selector kind=board --duration 10m -o name");
    const name = created.trim().split(/\s+/).at(-1) ?? "";
    await lab.waitFor(() => lab.exporter("board").status === ExporterStatus.EXPORTER_STATUS_LEASE_READY);
    assert.match(await jmp(ann, "get leases --client ann -o yaml"), new RegExp(name));
    assert.match(await jmp(ann, "get exporters --client ann -o yaml"), /name: board/);
    await jmp(ann, `update lease --client ann ${name} --to-client bob`);
    assert.equal(lab.lease(name).client, "bob");
    await jmp(bob, `shell --client bob --lease ${name} -- j power on`);
    assert.ok(!lab.lease(name).ended, "it was not made by that shell");
    await jmp(bob, `delete leases --client bob ${name}`);
    await lab.ready("board", limitMs);
    assert.match(await jmp(ann, "shell --client ann --name nowhere -- true", 1), /cannot be satisfied/);
    assert.deepEqual(lab.records.problems, []);
  });

  test("an exporter releases its lease as far as its controller knows how", async (t) => {
    const hooks = { beforeLease: { script: "exit 1", onFailure: "endLease" } };
    for (const release of ["0.8", "head"] as const) {
      const lab = await setUp(t, { release });
      const exporter = startPythonExporter(t, lab, newest, "board", power, { hooks });
      await lab.ready("board", limitMs);
      lab.createLease({ name: "l1", client: "ann", exporterName: "board" });
      await lab.ready("board", limitMs);
      assert.equal(lab.lease("l1").conditions.find(({ type }) => type === "Ready")?.reason, "Released");
      const answers = lab.records.calls.flatMap(({ rpc, code }) => (rpc === "ReleaseLease" ? [code] : []));
      const compat = lab.records.statuses.filter(({ releaseLease }) => releaseLease).length;
      const expected = release === "head" ? [[status.OK], 0] : [[status.INVALID_ARGUMENT], 1];
      assert.deepEqual([answers, compat], expected, release);
      await exporter.stop();
      assert.equal(lab.records.unregisters.length, 1);
      assert.deepEqual(lab.records.problems, []);
    }
  });

  test("a controller of 0.7 knows no statuses, and leases all the same", async (t) => {
    const lab = await setUp(t, { release: "0.7" });
    startPythonExporter(t, lab, newest, "board", power);
    await lab.ready("board", limitMs);
    const ann = pythonClient(t, lab, newest, "ann");
    const { code, stderr } = await ann.shell(["--selector", "kind=board"], ["j", "power", "on"], limitMs);
    assert.equal(code, 0, stderr);
    assert.deepEqual(lab.records.statuses, []);
    assert.deepEqual(lab.records.problems, []);
  });
});

async function setUp(t: TestContext, options: ControllerOptions = {}): Promise<Lab> {
  const lab = await startController({ dialsAwaitListen: true, ...options });
  t.after(() => lab.close());
  lab.addExporter({ name: "board", labels: { kind: "board" } });
  for (const name of ["ann", "bob"]) lab.addClient({ name });
  return lab;
}
