import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { freePort } from "../sim/agent.ts";
import { clientProgram } from "../sim/python-client.ts";
import { openWire, type Wire } from "./wire.ts";

export type Side = "agent" | "python";
export const sides: readonly Side[] = ["agent", "python"];

/** The release whose exporter and client stand on the other side. */
export const peerVersion = "0.9.0";

/** One exporter under measurement, in processes of its own, on a plain-text TCP port. */
export interface Exporter {
  readonly side: Side;
  readonly port: number;
  /** From spawn to the first answered GetReport, in ms. */
  readonly startMs: number;
  /** CPU time of all its processes so far, in seconds. */
  cpuSeconds(): number;
  /** Memory of all its processes: with its part of what they share with others, or only what is theirs alone. */
  memoryMiB(kind: "Pss" | "Private"): number;
  stop(): Promise<void>;
}

/**
 * Starts one side with the given `export:` map and waits for its first report.
 * @param alone gives the agent a program file of its own: the bench is Node too, and shares the pages of one with it
 */
export async function startExporter(
  side: Side,
  exported: Record<string, unknown>,
  { alone = false } = {},
): Promise<Exporter> {
  const directory = mkdtempSync(join(tmpdir(), "jmp-agent-bench-"));
  const config = join(directory, "exporter.yaml");
  const document = {
    apiVersion: "jumpstarter.dev/v1alpha1",
    kind: "ExporterConfig",
    metadata: { namespace: "default", name: "bench" },
    endpoint: "",
    token: "",
    export: exported,
  };
  writeFileSync(config, stringify(document));
  const node = alone ? join(directory, "node") : process.execPath;
  if (alone) copyFileSync(process.execPath, node);
  const port = await freePort();
  const words = ["run", "--exporter-config", config, "--tls-grpc-listener", `127.0.0.1:${port}`, "--tls-grpc-insecure"];
  const started = performance.now();
  const child =
    side === "agent"
      ? spawn(node, ["dist/jmp-agent.js", ...words], { stdio: "ignore" })
      : spawn(clientProgram(peerVersion, "jmp"), words, { stdio: "ignore", detached: true });
  const wire = await firstReport(child, port);
  const startMs = performance.now() - started;
  await wire.close();
  return {
    side,
    port,
    startMs,
    cpuSeconds: () => sum(processTree(child.pid ?? 0), cpuSecondsOf),
    memoryMiB: (kind) => memoryMiB([child.pid ?? 0], kind),
    stop: async () => {
      // The Python exporter forks; its parent hands signals on to the child's group.
      child.kill("SIGTERM");
      await Promise.race([once(child, "exit"), sleep(10_000, undefined, { ref: false })]);
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function firstReport(child: ChildProcess, port: number): Promise<Wire> {
  for (let waitedMs = 0; waitedMs < 60_000; waitedMs += 5) {
    if (child.exitCode !== null) throw new Error("the exporter ended at once");
    const wire = await openWire(port);
    if (wire !== undefined) {
      try {
        await wire.report();
        return wire;
      } catch {
        await wire.close();
      }
    }
    await sleep(5);
  }
  throw new Error("no report within a minute");
}

/** Memory of these processes and all that they have started. */
export function memoryMiB(pids: readonly number[], kind: "Pss" | "Private"): number {
  return sum(pids.flatMap(processTree), (pid) => memoryMiBOf(pid, kind));
}

function processTree(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      parents.set(Number(entry), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // It has just ended.
    }
  }
  const tree = [pid];
  for (const member of tree) for (const [child, parent] of parents) if (parent === member) tree.push(child);
  return tree;
}

function sum(pids: readonly number[], of: (pid: number) => number): number {
  return pids.reduce((total, pid) => total + of(pid), 0);
}

/** Fields 14 to 17 of proc(5) stat: own and waited-for children's user and system time, in ticks of 10 ms. */
export function cpuSecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return [11, 12, 13, 14].reduce((total, index) => total + Number(fields[index]), 0) / 100;
}

function memoryMiBOf(pid: number, kind: "Pss" | "Private"): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const lines = rollup.matchAll(kind === "Pss" ? /^Pss:\s+(\d+) kB/gm : /^Private_(?:Clean|Dirty):\s+(\d+) kB/gm);
  return [...lines].reduce((total, [, kilobytes]) => total + Number(kilobytes), 0) / 1024;
}
