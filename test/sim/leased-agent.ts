import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { stringify } from "yaml";
import { scratch } from "./agent.ts";
import type { Lab } from "./controller/controller.ts";

/** A `jmp-agent run` that serves leases of a lab, in a process of its own. */
export interface LeasedAgent {
  readonly pid: number;
  /** All it has printed so far. */
  output(): string;
  /** Ends it with SIGTERM and answers its exit code. */
  stop(): Promise<number | null>;
  kill(signal: NodeJS.Signals): void;
  /** Its exit code, or null after a signal. */
  readonly exited: Promise<number | null>;
  configFile(exporter: string): string;
  /** Writes an exporter's configuration anew. The agent is not told. */
  configure(exporter: string, exported: Record<string, unknown>, more?: Record<string, unknown>): void;
}

export interface LeasedAgentOptions {
  /** The configuration's `hooks`. */
  readonly hooks?: Record<string, unknown>;
  /** More of its top level, such as exitOnLeaseEnd. */
  readonly config?: Record<string, unknown>;
  /** The same for one exporter each, in the order of their names. */
  readonly configs?: readonly Record<string, unknown>[];
  /** Further words of the command line. */
  readonly args?: readonly string[];
  readonly env?: Record<string, string>;
  /** Words of a command that runs the agent in its place, such as one that gives it other name servers. */
  readonly wrapper?: readonly string[];
  /** How long it may take until its exporters can be leased. Default: 30 s. 0: do not wait for that. */
  readonly readyMs?: number;
}

/** An agent that is asked to stop and is still there after this long hangs. */
const stopLimitMs = 30_000;

/** Starts the built agent for one or several exporters, and waits until they can be leased. It ends with the test. */
export async function startLeasedAgent(
  t: Pick<TestContext, "after">,
  lab: Pick<Lab, "exporterConfig" | "ready">,
  names: string | readonly string[],
  exported: Record<string, unknown>,
  options: LeasedAgentOptions = {},
): Promise<LeasedAgent> {
  const exporters = typeof names === "string" ? [names] : names;
  const { hooks, readyMs = 30_000 } = options;
  const directory = scratch(t);
  const configFile = (exporter: string) => join(directory, `${exporter}.yaml`);
  const configure: LeasedAgent["configure"] = (exporter, drivers, more = {}) =>
    writeFileSync(configFile(exporter), stringify(lab.exporterConfig(exporter, drivers, more)), { mode: 0o600 });
  for (const [index, exporter] of exporters.entries()) {
    configure(exporter, exported, { ...options.config, ...options.configs?.[index], ...(hooks && { hooks }) });
  }

  const files = exporters.flatMap((exporter) => ["--exporter-config", configFile(exporter)]);
  const words = ["dist/jmp-agent.js", "run", ...files, "--log-format", "text", ...(options.args ?? [])];
  const [program, ...rest] = [...(options.wrapper ?? []), process.execPath, ...words] as [string, ...string[]];
  const child = spawn(program, rest, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...options.env },
  });
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const exited = once(child, "close").then(() => child.exitCode);

  const end = async (limitMs: number) => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), limitMs);
    const code = await exited;
    clearTimeout(timer);
    return code;
  };
  // The lab may be gone by now, and goodbyes to it would take their time.
  t.after(() => end(5_000));
  const agent: LeasedAgent = {
    pid: child.pid ?? -1,
    output: () => printed,
    async stop() {
      const code = await end(stopLimitMs);
      if (child.signalCode === "SIGKILL") throw new Error(`the agent does not stop:\n${printed}`);
      return code;
    },
    kill: (signal) => void child.kill(signal),
    exited,
    configFile,
    configure,
  };
  if (readyMs === 0) return agent;
  const ready = Promise.all(exporters.map((exporter) => lab.ready(exporter, readyMs)));
  const ended = exited.then((code) => {
    throw new Error(`it ended with ${code}`);
  });
  await Promise.race([ready, ended]).catch((error: unknown) => {
    throw new Error(`the agent is not ready:\n${printed}`, { cause: error });
  });
  // From now on its end is no failure, nor what the lab says of an exporter that has ended.
  ended.catch(() => {});
  ready.catch(() => {});
  return agent;
}
