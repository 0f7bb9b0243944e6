import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { clientProgram, missingClient } from "../../sim/python-client.ts";
import { portOpen, startTftpPeer, tftpPeers, tftpPort } from "../../sim/tftp-peers.ts";
import type { NetworkNamespace } from "../../sim/network-namespace.ts";
import { peerVersion } from "../exporters.ts";
import type { Cleanup } from "./cleanup.ts";
import { meterCpu, type CpuMeter } from "./cpu-meter.ts";
import { openLink, type Link, type LinkKind } from "./links.ts";

/** A TFTP server that can be measured, in the foreground, with windows of up to 64 if it has any. */
export interface BenchServer {
  readonly name: string;
  readonly isOurs: boolean;
  start(network: NetworkNamespace, address: string, root: string): Promise<ChildProcess>;
}

export function benchServers(): BenchServer[] {
  const servers: BenchServer[] = [ours("agent"), ours("agent, dgram only", "--plain")];
  for (const name of tftpPeers) {
    servers.push({
      name,
      isOurs: false,
      start: (network, address, root) => startTftpPeer(network, name, { address, root }),
    });
  }
  const missing = missingClient(peerVersion);
  if (missing === false) servers.push(pythonServer);
  else console.error(`without the Python exporter's server: ${missing}`);
  return servers;
}

function ours(name: string, ...switches: string[]): BenchServer {
  const program = join(import.meta.dirname, "our-server.ts");
  return {
    name,
    isOurs: true,
    start: (network, address, root) =>
      listening(network, address, [process.execPath, "--import", "tsx", program, address, root, ...switches]),
  };
}

const pythonServer: BenchServer = {
  name: "Python exporter",
  isOurs: false,
  start: (network, address, root) => {
    const program = join(import.meta.dirname, "python-server.py");
    const python = clientProgram(peerVersion, "python");
    return listening(network, address, [python, program, address, `${tftpPort}`, root]);
  },
};

async function listening(network: NetworkNamespace, address: string, words: readonly string[]): Promise<ChildProcess> {
  const [command = "", ...args] = words;
  const child = network.spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2_000)));
  await portOpen(child, address, () => said);
  return child;
}

/** A server in a network of its own, so that all can have port 69 and none shares a link. */
export interface RunningServer {
  readonly server: BenchServer;
  readonly link: Link;
  readonly cpu: CpuMeter | undefined;
}

export async function startAll(life: Cleanup, kind: LinkKind, root: string): Promise<RunningServer[]> {
  const running: RunningServer[] = [];
  for (const server of benchServers()) {
    const link = await openLink(life, kind);
    const child = await server.start(link.server, link.address, root);
    running.push({ server, link, cpu: meterCpu(life, child.pid ?? 0) });
  }
  return running;
}
