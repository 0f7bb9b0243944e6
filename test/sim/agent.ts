import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";

/** A running `jmp-agent run` process, as users start it. */
export interface AgentProcess {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly socketPath: string;
  /** TCP port of the listener on 127.0.0.1. */
  readonly port: number;
  /** All it has printed so far. */
  output(): string;
  /** Ends it with SIGTERM and answers its exit code. */
  stop(): Promise<number | null>;
}

export interface AgentOptions {
  /** Further words of the command line. Default: plain text on the TCP listener. */
  args?: string[];
  env?: Record<string, string>;
  /** More of the configuration's top level, such as hooks. */
  config?: Record<string, unknown>;
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** A temp directory that goes with the test. */
export function scratch(t: Pick<TestContext, "after">): string {
  const directory = mkdtempSync(join(tmpdir(), "jmp-agent-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Starts the built agent in a process of its own, with both listeners, and waits until it answers. */
export async function startAgent(
  t: Pick<TestContext, "after">,
  exported: Record<string, unknown>,
  options: AgentOptions = {},
): Promise<AgentProcess> {
  const directory = scratch(t);
  const config = join(directory, "exporter.yaml");
  writeFileSync(
    config,
    stringify({
      apiVersion: "jumpstarter.dev/v1alpha1",
      kind: "ExporterConfig",
      metadata: { namespace: "default", name: "test" },
      export: exported,
      ...options.config,
    }),
  );
  const socketPath = join(directory, "agent.sock");
  const port = await freePort();
  const child = spawn(
    process.execPath,
    ["dist/jmp-agent.js", "run", "--exporter-config", config, "--unix", socketPath]
      .concat(["--tls-grpc-listener", `127.0.0.1:${port}`])
      .concat(options.args ?? ["--tls-grpc-insecure"]),
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...options.env } },
  );
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      await once(child, "exit");
    }
    return child.exitCode;
  };
  t.after(stop);
  for (let waited = 0; !(await answers(port)) || !existsSync(socketPath); waited += 50) {
    if (child.exitCode !== null || waited > 20_000) throw new Error(`the agent does not start:\n${printed}`);
    await sleep(50);
  }
  return { child, pid: child.pid ?? 0, socketPath, port, output: () => printed, stop };
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** What a process holds open; to compare before and after. */
export function openFiles(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** Proportional set size in MiB, the share of memory that this process alone answers for. */
export function pssMiB(pid: number): number {
  const match = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
  return Number(match?.[1]) / 1024;
}
