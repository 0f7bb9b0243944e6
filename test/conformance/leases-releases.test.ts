// Old and new together: clients and controllers of each release we promise to serve, on an exporter with hooks.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startController, type ControllerOptions } from "../sim/controller/controller.ts";
import { startLeasedAgent } from "../sim/leased-agent.ts";
import { leasedShell } from "../sim/leased-shell.ts";
import { clientVersions, missingClient } from "../sim/python-client.ts";

const exported = { power: { type: "jumpstarter_driver_power.driver.MockPower" } };
const hooks = {
  beforeLease: { script: "echo BEFORE_HOOK: $LEASE_NAME; j power on", timeout: 60 },
  afterLease: { script: "j power off; echo AFTER_HOOK: $LEASE_NAME", timeout: 60 },
};

interface Pair {
  readonly client: string;
  readonly controller: NonNullable<ControllerOptions["release"]>;
  /** The client waits for the hooks, and shows them. */
  readonly knowsHooks: boolean;
}

const [newest = "", ...older] = clientVersions as string[];
const pairs: Pair[] = [
  ...older.map((client) => ({ client, controller: "head" as const, knowsHooks: client >= "0.8" })),
  ...(["0.9", "0.8", "0.7"] as const).map((controller) => ({ client: newest, controller, knowsHooks: true })),
  ...older.map((client) => ({
    client,
    controller: client.startsWith("0.8") ? ("0.8" as const) : ("0.7" as const),
    knowsHooks: client >= "0.8",
  })),
];

describe("releases", { concurrency: 4 }, () => {
  for (const { client, controller, knowsHooks } of pairs) {
    const what = `client ${client} and controller ${controller}: two leases, each with its hooks`;
    test(what, { skip: missingClient(client) }, async (t) => {
      const lab = await startController({ release: controller });
      t.after(() => lab.close());
      lab.addClient({ name: "ann" });
      lab.addExporter({ name: "board", labels: { kind: "board" } });
      const agent = await startLeasedAgent(t, lab, "board", exported, { hooks });
      for (let lease = 1; lease <= 2; lease++) {
        const { code, text } = await leasedShell(t, lab, ["--selector", "kind=board"], {
          version: client,
          command: ["j", "power", "cycle", "--wait", "0"],
        });
        const all = `${text}\nThe agent:\n${agent.output()}`;
        assert.equal(code, 0, all);
        if (knowsHooks) assert.match(text, /BEFORE_HOOK: [0-9a-f-]+[^]*AFTER_HOOK: [0-9a-f-]+/, all);
        const over = () => agent.output().match(/AFTER_HOOK/g)?.length === lease;
        await lab.waitFor(over, { what: "the hook after the lease", timeoutMs: 60_000 });
        await lab.ready("board", 60_000);
      }
      assert.equal(agent.output().match(/BEFORE_HOOK/g)?.length, 2, agent.output());
      // Each release of the controller marks it offline in its own way, but hears of it.
      await agent.stop();
      await lab.waitFor(() => lab.records.unregisters.length === 1, { what: "the goodbye" });
      assert.deepEqual(lab.records.problems, []);
    });
  }
});
