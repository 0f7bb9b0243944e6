// The unmodified Python exporter and the unmodified Python clients through our own controller and router: what the tests of
// the agent take a controller for is what the real ones get along with.
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { startController, type ControllerOptions, type Lab } from "../sim/controller/controller.ts";
import { pythonClient, startPythonExporter } from "../sim/controller/python.ts";
import { clientVersions, missingClient } from "../sim/python-client.ts";

const newest = "0.9.0";
const power = { power: { type: "jumpstarter_driver_power.driver.MockPower" } };
const limitMs = 180_000;

describe("the lab with the Python exporter", { skip: missingClient(newest) }, () => {
  for (const version of clientVersions as string[]) {
    test(`client ${version} leases by selector and calls`, { skip: missingClient(version) }, async (t) => {
      const lab = await lease(t);
      startPythonExporter(t, lab, newest, "board", power);
      await lab.ready("board", limitMs);

      const { code, stderr } = await pythonClient(t, lab, version, "ann").shell(
        ["--selector", "kind=board"],
        ["j", "power", "on"],
        limitMs,
      );
      assert.equal(code, 0, stderr);
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
});

async function lease(t: TestContext, options: ControllerOptions = {}): Promise<Lab> {
  const lab = await startController(options);
  t.after(() => lab.close());
  lab.addExporter({ name: "board", labels: { kind: "board" } });
  for (const name of ["ann", "bob"]) lab.addClient({ name });
  return lab;
}
