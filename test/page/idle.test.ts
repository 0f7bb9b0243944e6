/** What the operations listener costs while nobody asks. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { cpuSecondsOf } from "../bench/exporters.ts";
import { freePort, scratch } from "../sim/agent.ts";
import { setUpBench } from "../sim/lease-bench.ts";

const watchMs = 10_000;

/** What of a process's memory is not another's, in MiB. */
function ownMiB(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const lines = rollup.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB/gm);
  return [...lines].reduce((total, [, kilobytes]) => total + Number(kilobytes), 0) / 1024;
}

/** Bytes that went towards a disk. */
function writtenBytes(pid: number): number {
  return Number(/^write_bytes: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1]);
}

test("an idle agent with eight exporters and the listener takes next to nothing", { timeout: 120_000 }, async (t) => {
  const exporters = Array.from({ length: 8 }, (_, index) => `board-${index}`);
  const drivers = {
    power: { type: "jumpstarter_driver_power.driver.MockPower" },
    serial: {
      type: "jumpstarter_driver_pyserial.driver.PySerial",
      config: { url: "loop://", record: { directory: scratch(t) } },
    },
  };
  const start = (args: string[]) => setUpBench(t, { exporters, drivers, args, readyMs: 60_000 });
  const port = await freePort();
  const [plain, watched] = await Promise.all([start([]), start(["--operations", String(port)])]);
  const agents = [plain.agent.pid, watched.agent.pid];
  // Somebody has asked once, so that all is loaded and made.
  assert.equal((await fetch(`http://127.0.0.1:${port}/metrics`)).status, 200);
  assert.equal((await fetch(`http://127.0.0.1:${port}/status`)).status, 200);
  await sleep(3_000);
  const before = agents.map((pid) => ({ cpu: cpuSecondsOf(pid), written: writtenBytes(pid) }));
  await sleep(watchMs);
  const [without, withIt] = agents.map((pid, index) => ({
    percent: ((cpuSecondsOf(pid) - (before[index]?.cpu ?? 0)) / watchMs) * 1e5,
    written: writtenBytes(pid) - (before[index]?.written ?? 0),
    mib: ownMiB(pid),
  }));
  assert.ok(without !== undefined && withIt !== undefined);
  t.diagnostic(
    `CPU ${withIt.percent.toFixed(2)} % (without ${without.percent.toFixed(2)} %), written ${withIt.written} bytes, ` +
      `memory ${withIt.mib.toFixed(1)} MiB (without ${without.mib.toFixed(1)} MiB)`,
  );
  assert.ok(withIt.percent <= 1, `${withIt.percent} % of a core`);
  assert.equal(withIt.written, 0);
  assert.ok(withIt.mib - without.mib <= 4, `${withIt.mib - without.mib} MiB for the listener`);
});
