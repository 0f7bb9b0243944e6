import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { stringify } from "yaml";
import { scratch } from "../agent.ts";
import { clientProgram, run, type Finished } from "../python-client.ts";
import type { Lab } from "./controller.ts";

export interface PythonClient {
  /** What `jmp` needs to find its configuration. */
  readonly env: Record<string, string>;
  /** Runs `jmp WORDS…` of this release; `--client NAME` is up to the caller. */
  jmp(args: readonly string[], options?: { timeoutMs?: number; env?: Record<string, string> }): Promise<Finished>;
  /** `jmp shell --client NAME OPTIONS… -- COMMAND…` */
  shell(options: readonly string[], command: readonly string[], timeoutMs?: number): Promise<Finished>;
}

/** A Python client of the lab with its own configuration directory, which goes with the test. */
export function pythonClient(
  t: Pick<TestContext, "after">,
  lab: Pick<Lab, "clientConfig">,
  version: string,
  name: string,
): PythonClient {
  const home = scratch(t);
  mkdirSync(join(home, "clients"));
  writeFileSync(join(home, "clients", `${name}.yaml`), stringify(lab.clientConfig(name)), { mode: 0o600 });
  const env = pythonEnv(version, home);
  const jmp: PythonClient["jmp"] = (args, options = {}) =>
    run(clientProgram(version, "jmp"), args, {
      env: { ...env, ...options.env },
      ...(options.timeoutMs && { timeoutMs: options.timeoutMs }),
    });
  return {
    env,
    jmp,
    shell: (options, command, timeoutMs) =>
      jmp(["shell", "--client", name, ...options, "--", ...command], timeoutMs ? { timeoutMs } : {}),
  };
}

export interface PythonExporter {
  readonly pid: number;
  /** All it has printed so far. */
  output(): string;
  /** Ends it and answers its exit code. */
  stop(): Promise<number | null>;
}

/** The unmodified Python exporter, in a process group of its own, which ends with the test at the latest. */
export function startPythonExporter(
  t: Pick<TestContext, "after">,
  lab: Pick<Lab, "exporterConfig">,
  version: string,
  name: string,
  exported: Record<string, unknown>,
  more: Record<string, unknown> = {},
): PythonExporter {
  const directory = scratch(t);
  const config = join(directory, "exporter.yaml");
  writeFileSync(config, stringify(lab.exporterConfig(name, exported, more)), { mode: 0o600 });
  const child = spawn(clientProgram(version, "jmp"), ["run", "--exporter-config", config], {
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...pythonEnv(version, directory) },
  });
  const exited = once(child, "exit");
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const signalGroup = (signal: NodeJS.Signals) => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal);
    } catch {
      // It is gone already.
    }
  };
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      const timer = setTimeout(() => signalGroup("SIGKILL"), 20_000);
      await exited;
      clearTimeout(timer);
    }
    signalGroup("SIGKILL");
    return child.exitCode;
  };
  t.after(stop);
  return { pid: child.pid ?? -1, output: () => printed, stop };
}

function pythonEnv(version: string, home: string): Record<string, string> {
  const { PATH = "" } = process.env;
  const bin = join(clientProgram(version, "jmp"), "..");
  return { JMP_CLIENT_CONFIG_HOME: home, PYTHONDONTWRITEBYTECODE: "1", PATH: `${bin}:${PATH}` };
}
