import { execFileSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { scratch } from "./agent.ts";
import { startDhcp } from "./lan.ts";
import {
  boardAddress,
  gatewayOf,
  hostAddress,
  networkOf,
  startNetwork,
  tapOf,
  type NetworkNamespace,
  type NetworkOptions,
} from "./network-namespace.ts";

const programs = ["qemu-system-aarch64", "docker-registry", "ip", "nft", "unshare", "nsenter", "setpriv", "mke2fs"];
const firmware = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

/**
 * Why boards cannot be netbooted here, or false. Never a reason in CI.
 * @param more programs, and files by their absolute paths
 */
export function missingForNetboot(more: readonly string[] = []): string | false {
  const missing = [...programs, ...more].filter((name) => !(name.startsWith("/") ? existsSync(name) : onPath(name)));
  if (!existsSync(firmware)) missing.push("u-boot-qemu");
  if (process.getuid?.() !== 0) missing.push("root (network namespaces with a tap)");
  if (missing.length === 0) return false;
  const reason = `netboot needs ${missing.join(", ")}`;
  if (process.env["CI"]) throw new Error(reason);
  return reason;
}

function onPath(program: string): boolean {
  const directories = [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin"];
  return directories.some((directory) => existsSync(join(directory, program)));
}

/** Makes the bundle for the VirtualBoard, and a disk that it boots from. */
export function makeBundle(directory: string): { bundle: string; bootDisk: string } {
  const bundle = join(directory, "bundle");
  const bootDisk = join(directory, "boot-disk.img");
  execFileSync(process.execPath, ["scripts/bundle/make.mjs", bundle], { stdio: ["ignore", "ignore", "inherit"] });
  execFileSync(process.execPath, ["scripts/bundle/disk.mjs", bootDisk], { stdio: ["ignore", "ignore", "inherit"] });
  return { bundle, bootDisk };
}

export interface LabBoard {
  /** Of its exporter. */
  readonly name: string;
  /** The exporter's configuration. */
  readonly config: string;
  /** The board's disk, as seen from outside. */
  readonly disk: string;
}

/** A bench with a virtual board or several, a registry that holds their bundle, and a network of its own. */
export interface Lab extends LabBoard {
  readonly directory: string;
  /** All of them, if there are several: each on a tap of its own, all behind the same boot servers and cache. */
  readonly boards: readonly LabBoard[];
  /** Starts jmp-agent on the bench's host. */
  agent(...words: string[]): AgentRun;
  /** Starts `jmp-agent run`. @returns its unix socket, which answers */
  serve(): Promise<{ socketPath: string; agent: AgentRun }>;
}

export interface AgentRun {
  readonly child: ChildProcess;
  stderr(): string;
  stdout(): string;
  /** Waits until it has printed something that matches to stderr. */
  says(pattern: RegExp): Promise<void>;
  /** Its exit code. */
  ended(): Promise<number | null>;
}

const bundleName = "127.0.0.1:5000/lab/virtual-board:latest";

export interface LabOptions {
  /** Of the flasher; the board's own console without it. */
  readonly serial?: { type: string; config: object };
  /** As a VirtualBoard takes it. */
  readonly diskSize?: string;
}

export async function startLab(
  t: Pick<TestContext, "after">,
  bundle: string,
  network: NetworkOptions,
  options: LabOptions = {},
): Promise<Lab> {
  const directory = scratch(t);
  const namespace = await startNetwork(t, network);
  const registry = namespace.spawn(
    process.execPath,
    ["scripts/bundle/registry.mjs", join(directory, "registry"), "127.0.0.1:5000"],
    { stdio: "ignore" },
  );
  registry.unref();
  await namespace.run(process.execPath, ["--import", "tsx", "scripts/bundle/push.mjs", bundle, bundleName]);
  if (network.kind === "tap") await startDhcpFor(t, namespace, network);
  const count = network.boards ?? 1;
  const boards: LabBoard[] = [];
  for (let index = 0; index < count; index += 1) {
    const name = count === 1 ? "lab" : `lab-${index}`;
    const at = count === 1 ? directory : join(directory, name);
    const board = { name, config: join(directory, `${name}.yaml`), disk: join(at, "disk.img") };
    await writeFile(
      board.config,
      stringify(
        exporterConfig({ ...board, index, directory: at, cache: join(directory, "cache"), network, ...options }),
      ),
    );
    boards.push(board);
  }
  const [board] = boards;
  if (board === undefined) throw new Error("no board");
  const { config } = board;

  const agent = (...words: string[]): AgentRun => {
    const child = namespace.spawn(process.execPath, ["--import", "tsx", "agent/cli/jmp-agent.ts", ...words], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    return agentRun(child);
  };
  const serve = async () => {
    const socketPath = join(directory, "agent.sock");
    const run = agent("run", "--exporter-config", config, "--unix", socketPath);
    for (let waited = 0; !existsSync(socketPath); waited += 50) {
      if (run.child.exitCode !== null || waited > 20_000) throw new Error(`the agent does not start: ${run.stderr()}`);
      await sleep(50);
    }
    return { socketPath, agent: run };
  };
  return { ...board, boards, directory, agent, serve };
}

function agentRun(child: ChildProcess): AgentRun {
  const printed = { stdout: "", stderr: "" };
  child.stdout?.on("data", (chunk: Buffer) => (printed.stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (printed.stderr += chunk.toString()));
  const closed = once(child, "close") as Promise<[number | null]>;
  return {
    child,
    stdout: () => printed.stdout,
    stderr: () => printed.stderr,
    says: async (pattern) => {
      while (!pattern.test(printed.stderr)) {
        if (child.exitCode !== null) throw new Error(`it ended without saying ${pattern}: ${printed.stderr}`);
        await sleep(20);
      }
    },
    ended: async () => (await closed)[0],
  };
}

/** Boards in several networks need a server for each that minds only its own. */
async function startDhcpFor(
  t: Pick<TestContext, "after">,
  namespace: NetworkNamespace,
  { boards = 1 }: NetworkOptions,
): Promise<void> {
  for (let index = 0; index < boards && boards > 1; index += 1) {
    await startDhcp(t, namespace, { interface: tapOf(index), router: gatewayOf(index) });
  }
  if (boards > 1) return;
  const dhcp = namespace.spawn(process.execPath, ["test/sim/dhcp-server.mjs", hostAddress.tap, boardAddress], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(dhcp.stdout as NonNullable<typeof dhcp.stdout>, "data");
}

interface BoardPlace extends LabBoard, LabOptions {
  readonly index: number;
  /** For what is only this board's. */
  readonly directory: string;
  /** Of the bundles. */
  readonly cache: string;
  readonly network: NetworkOptions;
}

/** An ordinary exporter: board, flasher with boot servers at the address that the board can reach. */
function exporterConfig({ name, index, directory, disk, cache, network, serial, diskSize = "96M" }: BoardPlace) {
  const host = hostAddress[network.kind];
  // Behind ports that several exporters share, each board sees only the files of its own.
  const own = (network.boards ?? 1) > 1 && { boards: networkOf(index) };
  const sibling = (child: string) => ({ ref: `board.${child}` });
  const server = (type: string, folder: string) => ({
    type,
    config: { root_dir: join(directory, folder), host, ...own },
  });
  return {
    apiVersion: "jumpstarter.dev/v1alpha1",
    kind: "ExporterConfig",
    metadata: { namespace: "default", name },
    export: {
      board: {
        type: "jumpstarter_agent.VirtualBoard",
        config: { disk, disk_size: diskSize, ...(network.kind === "tap" && { network: { tap: tapOf(index) } }) },
      },
      power: sibling("power"),
      serial: sibling("serial"),
      flasher: {
        type: "jumpstarter_driver_flashers.driver.BaseFlasher",
        config: { flasher_bundle: bundleName, plain_http: ["127.0.0.1:5000"], cache_dir: cache },
        children: {
          power: sibling("power"),
          serial: serial ?? sibling("serial"),
          tftp: server("jumpstarter_driver_tftp.driver.Tftp", "tftp"),
          http: server("jumpstarter_driver_http.driver.HttpServer", "http"),
        },
      },
    },
  };
}
