// The agent is killed in every state of a lease's life, the lease goes, and the agent starts again.
import assert from "node:assert/strict";
import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { phases, type Phase } from "../../agent/controller/lease-machine.ts";
import { askAgents } from "../../agent/host/control-client.ts";
import { scratch } from "../sim/agent.ts";
import { startController, type Lab } from "../sim/controller/controller.ts";
import { benchDrivers, runtimeDirectory, shown, startTraffic, until } from "../sim/lease-bench.ts";
import { leaseClient, type LeaseConnection } from "../sim/lease-client.ts";
import { startLeasedAgent, type LeasedAgent, type LeasedAgentOptions } from "../sim/leased-agent.ts";

/** A state by its name in the machine, and the one before the machine begins. */
type Moment = Phase | "registering";

interface Case {
  /** More drivers and the hooks that the exporter has. */
  readonly drivers?: (directory: string) => Record<string, unknown>;
  readonly hooks?: Record<string, unknown>;
  /** Before the agent starts. */
  readonly prepare?: (lab: Lab) => void;
  /** Brings the agent to where it is killed, and sees to it that it stays there. */
  readonly reach: (scene: Scene) => Promise<void>;
  /** The state that it shows then, if it bears another name. */
  readonly shows?: string;
}

interface Scene {
  readonly t: TestContext;
  readonly lab: Lab;
  readonly agent: LeasedAgent;
  readonly lease: () => void;
  /** The lease is ready, and a client is connected. */
  readonly connected: () => Promise<LeaseConnection>;
  /** Takes the slow driver out of the configuration. @returns what the agent says against it */
  readonly reload: () => Promise<unknown>;
}

const board = "board";
const leaseName = "first";

/** What is left running must be found, also in the background and deaf to polite words. */
const lingering = (marker: string) => `(trap '' HUP TERM; sleep 300) & echo ${marker}; sleep 300`;

/** A driver that takes its time to close, by a tool that does. */
const slowDriver = (directory: string) => {
  const tool = join(directory, "demuxer");
  const script = `#!/bin/sh\ntrap 'echo closing >&2; sleep 4; exit 0' TERM\necho '/dev/null\tCCPLEX: 0'\nwhile :; do sleep 0.2; done\n`;
  if (!existsSync(tool)) writeFileSync(tool, script);
  chmodSync(tool, 0o755);
  const type = "jumpstarter_driver_pyserial.nvdemux.driver.NVDemuxSerial";
  return { slow: { type, config: { demuxer_path: tool, device: "/dev/null" } } };
};
const printed = ({ agent, lab }: Pick<Scene, "agent" | "lab">, text: string) =>
  lab.waitFor(() => agent.output().includes(text), { what: `'${text}' of the agent` });

const cases: Partial<Record<Moment, Case>> = {
  registering: {
    prepare: (lab) => void lab.faults.swallow("Register"),
    reach: async ({ lab }) => void (await lab.waitFor(() => lab.records.calls.some(({ rpc }) => rpc === "Register"))),
    shows: "available",
  },
  available: { reach: async () => {} },
  beginning: {
    drivers: slowDriver,
    // A lease waits while a driver that is no longer configured closes.
    reach: async (scene) => {
      await printed(scene, "demuxer runs");
      void scene.reload();
      await printed(scene, "demuxer: closing");
      scene.lease();
    },
  },
  beforeLease: {
    hooks: { beforeLease: { script: lingering("BEFORE"), timeout: 300 } },
    reach: async (scene) => {
      scene.lease();
      await printed(scene, "BEFORE");
    },
  },
  ready: {
    reach: async ({ t, connected }) => (await startTraffic(t, await connected())).moves(),
  },
  afterLease: {
    hooks: { afterLease: { script: lingering("AFTER"), timeout: 300 } },
    reach: async (scene) => {
      await (await scene.connected()).endSession();
      await printed(scene, "AFTER");
    },
  },
  settling: {
    hooks: { afterLease: { script: "true" } },
    reach: async ({ connected }) => (await connected()).endSession(),
  },
  releasing: {
    prepare: (lab) => void lab.faults.swallow("ReleaseLease"),
    hooks: { afterLease: { script: "true" } },
    reach: async ({ connected }) => (await connected()).endSession(),
  },
  over: { reach: async ({ connected }) => (await connected()).endSession() },
  cleaning: {
    drivers: slowDriver,
    // What a reload has put off until the end of the lease is done now.
    reach: async (scene) => {
      await printed(scene, "demuxer runs");
      await scene.connected();
      assert.equal(await scene.reload(), undefined);
      scene.lab.deleteLease(leaseName);
    },
  },
  stopping: {
    prepare: (lab) => void lab.faults.swallow("Unregister"),
    reach: async ({ agent }) => agent.kill("SIGTERM"),
  },
  stopped: {
    drivers: slowDriver,
    reach: async (scene) => {
      await printed(scene, "demuxer runs");
      scene.agent.kill("SIGTERM");
      await scene.lab.waitFor(() => scene.lab.records.unregisters.length > 0);
    },
  },
};

describe("killed in each state of the machine, and started again", { concurrency: 4 }, () => {
  for (const moment of ["registering", ...phases] as const) {
    test(moment, { timeout: 120_000 }, async (t) => {
      const trial = cases[moment];
      assert.ok(trial, `there is no case for the state ${moment}`);
      const { lab, runtime, agent, start } = await setUp(t, moment, trial);
      await until(
        `the agent to be ${moment}`,
        async () => (await shown(runtime, agent.pid, board))?.state === (trial.shows ?? moment),
        5_000,
      ).catch((error: unknown) => {
        throw new Error(`the agent printed:\n${agent.output()}`, { cause: error });
      });
      const left = processesWith(runtime).filter((pid) => pid !== agent.pid);
      const isHook = moment === "beforeLease" || moment === "afterLease";
      assert.equal(left.length > 1, isHook, "hooks run where they should, and nowhere else");
      const held = privateDirectories(runtime).length;
      const serving = !["registering", "available", "beginning", "stopping", "stopped"].includes(moment);
      // What a lease has in the file system goes while it is cleaned up.
      if (moment !== "cleaning") assert.equal(held, serving ? 1 : 0, "private directories of leases");

      agent.kill("SIGKILL");
      await agent.exited;
      await lab.waitFor(() => lab.exporter(board).statusStreams === 0);
      lab.faults.clear();
      lab.batch(() => {
        if (lab.records.listens.length > 0 || moment === "beginning") lab.deleteLease(leaseName);
      });

      const startedMs = lab.records.nowMs();
      const again = await start();
      await lab.waitFor(() => lab.records.statuses.some(({ atMs, name }) => atMs > startedMs && name === "AVAILABLE"), {
        what: "the agent to be available again",
        timeoutMs: 30_000,
      });
      await lab.ready(board, 30_000);
      const others = processesWith(runtime).filter((pid) => pid !== again.pid);
      assert.deepEqual(others, [], "what the hooks had left running is gone");
      assert.deepEqual(privateDirectories(runtime), [], "private directories of the old lease are gone");
      // It registers before it listens there.
      await until("the agent to answer on its control socket", async () => {
        const answers = await askAgents("status", {}, { env: { XDG_RUNTIME_DIR: runtime } });
        return answers.some(({ pid }) => pid === again.pid);
      });
      assert.ok(!existsSync(join(runtime, "jumpstarter-agent", `${agent.pid}.sock`)), "the old control socket is gone");
      const now = await shown(runtime, again.pid, board);
      const free = { exporter: board, state: "available", online: true, lease: null, client: null, offline: [] };
      assert.deepEqual({ ...now, ...free }, now);

      if (isHook) return;
      lab.createLease({ client: "ann", exporterName: board, name: "second" });
      const client = await leaseClient(t, lab.clientConfig("ann")).connect("second");
      await client.find("power")?.call("on");
      lab.deleteLease("second");
      await lab.ready(board);
      assert.equal(await again.stop(), 128 + constants.signals.SIGTERM);
      assert.equal(lab.records.unregisters.at(-1)?.reason, "Exporter shutdown");
    });
  }

  test("the lease is still there: it is served again", { timeout: 120_000 }, async (t) => {
    const { lab, runtime, agent, start } = await setUp(t, "ready", cases.ready as Case);
    agent.kill("SIGKILL");
    await agent.exited;
    const killedMs = lab.records.nowMs();
    const again = await start();
    await lab.waitFor(() => lab.records.statuses.some(({ atMs, name }) => atMs > killedMs && name === "LEASE_READY"), {
      what: "the lease to be ready again",
      timeoutMs: 30_000,
    });
    const client = await leaseClient(t, lab.clientConfig("ann")).connect(leaseName);
    await client.find("power")?.call("on");
    assert.equal((await shown(runtime, again.pid, board))?.lease, leaseName);
    assert.equal(privateDirectories(runtime).length, 1);
    assert.equal(lab.lease(leaseName).ended, false);
    lab.deleteLease(leaseName);
    await lab.ready(board);
    assert.deepEqual(privateDirectories(runtime), []);
  });
});

async function setUp(t: TestContext, moment: Moment, { drivers, hooks, prepare, reach }: Case) {
  const lab = await startController();
  t.after(async () => {
    assert.deepEqual(lab.records.problems, []);
    await lab.close();
  });
  lab.addExporter({ name: board });
  lab.addClient({ name: "ann" });
  prepare?.(lab);
  const directory = scratch(t);
  const runtime = runtimeDirectory(directory);
  const options: LeasedAgentOptions = { env: { XDG_RUNTIME_DIR: runtime }, ...(hooks && { hooks }) };
  const exported = { ...benchDrivers, ...drivers?.(directory) };
  const agent = await startLeasedAgent(t, lab, board, exported, {
    ...options,
    ...(moment === "registering" && { readyMs: 0 }),
  });
  const lease = () => void lab.createLease({ client: "ann", exporterName: board, name: leaseName });
  await reach({
    ...{ t, lab, agent, lease },
    connected: async () => {
      lease();
      return await leaseClient(t, lab.clientConfig("ann")).connect(leaseName);
    },
    async reload() {
      agent.configure(board, benchDrivers);
      const [answer] = await askAgents("reload", {}, { pid: agent.pid, env: { XDG_RUNTIME_DIR: runtime } });
      return answer?.error;
    },
  });
  const start = () => startLeasedAgent(t, lab, board, exported, { ...options, readyMs: 0 });
  return { lab, runtime, agent, start };
}

function privateDirectories(runtime: string): string[] {
  return readdirSync(runtime).filter((name) => /^jumpstarter-\d+-/.test(name));
}

/** Processes that were started with this runtime directory, drivers' tools excepted. */
function processesWith(runtime: string): number[] {
  const tool = ["demuxer", "sleep 0.2", "sleep 4"];
  return readdirSync("/proc").flatMap((name) => {
    try {
      if (!/^\d+$/.test(name) || !readFileSync(`/proc/${name}/environ`, "utf8").includes(runtime)) return [];
      const command = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0").join(" ");
      return tool.some((word) => command.includes(word)) ? [] : [Number(name)];
    } catch {
      return [];
    }
  });
}
