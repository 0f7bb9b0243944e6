import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { askAgents } from "../../agent/host/control-client.ts";
import type { ExporterStatus as HostedStatus } from "../../agent/ops/exporter-status.ts";
import { ExporterStatus } from "../../proto/gen/jumpstarter/v1/common.ts";
import { scratch } from "./agent.ts";
import { startController, type ControllerOptions, type Lab } from "./controller/controller.ts";
import { leaseClient, type LeaseConnection } from "./lease-client.ts";
import { startLeasedAgent, type LeasedAgent, type LeasedAgentOptions } from "./leased-agent.ts";

/** The drivers of an exporter that faults are tried on. */
export const benchDrivers = {
  power: { type: "jumpstarter_driver_power.driver.MockPower" },
  echo: { type: "jumpstarter_driver_network.driver.EchoNetwork" },
};

/** A place for an agent's sockets and the private directories of its leases, apart from those of other agents. */
export function runtimeDirectory(scratch: string): string {
  const directory = join(scratch, "run");
  mkdirSync(directory, { mode: 0o700 });
  return directory;
}

/** What an agent shows `jmp-agent` of one exporter; undefined if it does not answer or has no such exporter. */
export async function shown(runtime: string, pid: number, exporter: string): Promise<HostedStatus | undefined> {
  const [agent] = await askAgents("status", {}, { pid, env: { XDG_RUNTIME_DIR: runtime } });
  return (agent?.answer as HostedStatus[] | undefined)?.find((one) => one.exporter === exporter);
}

/** Waits for a condition that takes asking. */
export async function until<T>(what: string, condition: () => Promise<T>, timeoutMs = 20_000): Promise<NonNullable<T>> {
  for (const end = performance.now() + timeoutMs; ;) {
    const found = await condition();
    if (found) return found;
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await sleep(20);
  }
}

/** A lab, an agent of its exporters, and a client called ann. */
export interface Bench {
  readonly lab: Lab;
  readonly agent: LeasedAgent;
  /** What the agent shows of an exporter now. */
  show(exporter: string): Promise<HostedStatus | undefined>;
  /** Waits until the agent shows an exporter in this state. */
  untilShown(exporter: string, wanted: Partial<HostedStatus>, timeoutMs?: number): Promise<HostedStatus>;
  /** Clients made from now on trust these authorities. */
  trust(caBase64: string): void;
  /** Connects a client to the exporter of a lease, by a tunnel of its own. */
  connect(client: string, lease: string): Promise<LeaseConnection>;
  /** Leases an exporter to ann, and connects her. */
  lease(exporter: string, name: string): Promise<LeaseConnection>;
  /** Fails unless a lease is served, by the word of controller, agent and session. It began once, if nothing else is said. */
  assertServed(exporter: string, name: string, connection: LeaseConnection, begins?: number | "any"): Promise<void>;
  /** Waits until the exporters are heard and have told how they are, and fails if that took longer than it may. */
  back(exporters: readonly string[], sinceMs: number, limitMs?: number): Promise<void>;
  /** Waits until controller and agent agree that an exporter is free, and ends the agent. */
  agreeAndEnd(exporters: readonly string[]): Promise<void>;
}

export interface BenchOptions extends LeasedAgentOptions {
  readonly exporters: readonly string[];
  readonly lab?: ControllerOptions;
  readonly drivers?: Record<string, unknown>;
  /** Where the exporters look for the controller. Default: where it is. */
  readonly endpoint?: (lab: Lab) => string;
  /** Before the agent starts. */
  readonly prepare?: (lab: Lab) => void;
}

/** Back after an outage, it says. */
const backMs = 5_000;

export async function setUpBench(t: TestContext, options: BenchOptions): Promise<Bench> {
  const { exporters, prepare, drivers = benchDrivers } = options;
  const lab = await startController(options.lab);
  t.after(async () => {
    assert.deepEqual(lab.records.problems, []);
    await lab.close();
  });
  for (const name of exporters) lab.addExporter({ name });
  for (const name of ["ann", "bob"]) lab.addClient({ name });
  prepare?.(lab);
  const runtime = runtimeDirectory(scratch(t));
  const agent = await startLeasedAgent(t, lab, exporters, drivers, {
    ...options,
    ...(options.endpoint && { config: { ...options.config, endpoint: options.endpoint(lab) } }),
    env: { XDG_RUNTIME_DIR: runtime, ...options.env },
  });
  const show: Bench["show"] = (exporter) => shown(runtime, agent.pid, exporter);
  const untilShown: Bench["untilShown"] = (exporter, wanted, timeoutMs) =>
    until(
      `${exporter} to be ${JSON.stringify(wanted)}`,
      async () => {
        const now = await show(exporter);
        const keys = Object.keys(wanted) as (keyof HostedStatus)[];
        return now !== undefined && keys.every((key) => now[key] === wanted[key]) ? now : undefined;
      },
      timeoutMs,
    ).catch((error: unknown) => {
      throw new Error(`the agent printed:\n${agent.output()}`, { cause: error });
    });
  let ca: string | undefined;
  const client = (name: string) => {
    const config = lab.clientConfig(name);
    return leaseClient(t, ca === undefined ? config : { ...config, tls: { ca } });
  };
  const begun = (name: string) => agent.output().split(`Lease ${name} begins`).length - 1;
  return {
    lab,
    agent,
    show,
    untilShown,
    trust: (caBase64) => void (ca = caBase64),
    connect: (name, lease) => client(name).connect(lease),
    async lease(exporter, name) {
      lab.createLease({ client: "ann", exporterName: exporter, name });
      return await client("ann").connect(name);
    },
    async assertServed(exporter, name, connection, begins = 1) {
      assert.equal(lab.lease(name).ended, false, "the controller's lease");
      await untilShown(exporter, { state: "ready", lease: name });
      assert.equal((await connection.status()).status, ExporterStatus.EXPORTER_STATUS_LEASE_READY);
      await lab.waitFor(() => lab.exporter(exporter).status === ExporterStatus.EXPORTER_STATUS_LEASE_READY, {
        what: `the controller to know that ${exporter} is ready`,
      });
      if (begins !== "any") assert.equal(begun(name), begins, `how often lease ${name} has begun`);
    },
    async back(names, sinceMs, limitMs = backMs) {
      const { statusStreams, statuses } = lab.records;
      for (const exporter of names) {
        await lab
          .waitFor(
            () =>
              statusStreams.some(
                (stream) => stream.exporter === exporter && stream.endedAtMs === undefined && stream.atMs >= sinceMs,
              ) && statuses.some((report) => report.exporter === exporter && report.atMs >= sinceMs),
            { what: `${exporter} to be back` },
          )
          .catch((error: unknown) => {
            throw new Error(`the agent printed:\n${agent.output()}`, { cause: error });
          });
        const tookMs = lab.records.nowMs() - sinceMs;
        assert.ok(tookMs <= limitMs, `${exporter} came back after ${tookMs} ms`);
        await untilShown(exporter, { online: true });
      }
    },
    async agreeAndEnd(names) {
      const { EXPORTER_STATUS_AVAILABLE, EXPORTER_STATUS_OFFLINE } = ExporterStatus;
      for (const name of names) {
        await lab.ready(name);
        await lab.waitFor(() => lab.exporter(name).status === EXPORTER_STATUS_AVAILABLE, {
          what: `${name}: AVAILABLE`,
        });
        await untilShown(name, { state: "available", online: true, lease: null, client: null });
      }
      assert.equal(await agent.stop(), 128 + constants.signals.SIGTERM, agent.output());
      for (const name of names) assert.equal(lab.exporter(name).status, EXPORTER_STATUS_OFFLINE);
    },
  };
}

/** A byte stream through a tunnel that is never quiet. */
export interface Traffic {
  /** Bytes that came back so far, each where it belongs. */
  readonly bytes: number;
  readonly error: Error | undefined;
  /** Waits until bytes go round that were not sent yet. @throws if the stream breaks before. */
  moves(timeoutMs?: number): Promise<void>;
  stop(): void;
}

const chunkBytes = 4_096;

/** Sends numbers to the echo driver and compares what comes back. It ends with the test. */
export async function startTraffic(t: Pick<TestContext, "after">, connection: LeaseConnection): Promise<Traffic> {
  const stream = await connection.find("echo")?.stream();
  assert.ok(stream);
  let [sent, received] = [0, 0];
  let error: Error | undefined;
  const send = () => {
    const chunk = Buffer.alloc(chunkBytes);
    for (let at = 0; at < chunkBytes; at += 4) chunk.writeUInt32LE((sent + at) >>> 0, at);
    sent += chunkBytes;
    stream.write(chunk);
  };
  stream.on("data", (chunk: Buffer) => {
    for (let at = (4 - (received % 4)) % 4; at + 4 <= chunk.length; at += 4) {
      if (chunk.readUInt32LE(at) !== received + at) stream.destroy(new Error(`other bytes come back at ${received}`));
    }
    received += chunk.length;
  });
  stream.on("error", (reason) => (error ??= reason));
  stream.on("close", () => (error ??= new Error("the stream has ended")));
  // No more is under way than a window, so that whatever moves was sent a moment ago.
  const timer = setInterval(() => {
    if (sent - received < 16 * chunkBytes && !stream.destroyed) send();
  }, 25);
  const stop = () => {
    clearInterval(timer);
    stream.destroy();
  };
  t.after(stop);
  return {
    get bytes() {
      return received;
    },
    get error() {
      return error;
    },
    async moves(timeoutMs = 10_000) {
      const goal = sent + chunkBytes;
      for (const end = performance.now() + timeoutMs; received < goal; await sleep(5)) {
        if (error) throw error;
        if (performance.now() > end) throw new Error(`the stream stands still at ${received} of ${sent} bytes`);
      }
    },
    stop,
  };
}
