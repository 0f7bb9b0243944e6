import type { ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { connect } from "../../agent/client/connect.ts";
import type { Calls } from "../../agent/driver/interface.ts";
import { dutNetwork } from "../../net/dut-network/interface.ts";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch } from "./agent.ts";
import { newNamespace, type NetworkNamespace } from "./network-namespace.ts";

const programs = ["ip", "nft", "dnsmasq", "tcpdump", "busybox", "unshare", "nsenter", "setpriv"];

/** Why there can be no such lab here, or false. Never a reason in CI. */
export function missingForDutNetwork(): string | false {
  const missing = missingPrograms(programs);
  if (process.getuid?.() !== 0) missing.push("root (network namespaces)");
  if (missing.length === 0) return false;
  const reason = `a DUT network needs ${missing.join(", ")}`;
  if (process.env["CI"]) throw new Error(reason);
  return reason;
}

/** The host's side of the way out, and who stands at its other end. */
export const outsideAddress = { host: "10.66.0.1", neighbour: "10.66.0.2", farAway: "198.51.100.7" } as const;

/** Answers each connection with the address that it sees as the peer's. */
const whoAreYou = `
  const ports = process.argv.slice(1).map(Number);
  const server = (port) => new Promise((listening) =>
    require("node:net").createServer((peer) => peer.on("error", () => {}).end(peer.remoteAddress)).listen(port, "0.0.0.0", listening));
  Promise.all(ports.map(server)).then(() => console.log("ready"));`;

/** What busybox's DHCP client calls with what it was given. */
const udhcpcScript = (result: string) => `#!/bin/sh
if [ "$1" = bound ]; then
  ip address flush dev "$interface"
  ip address add "$ip/$mask" dev "$interface"
  [ -z "$router" ] || ip route replace default via "$router"
  echo "$ip $router $dns" > '${result}'
fi
`;

export interface Circumstances {
  /** Programs that this host does not have. */
  readonly without?: readonly string[];
  /** Not root: a service with the capabilities that a network needs, or a user who may use sudo without a password. */
  readonly user?: "capable" | "sudoer";
}

export interface DutNetworkLab {
  readonly directory: string;
  readonly stateDirectory: string;
  /** Where the agent runs: `dut0` leads to the board, `up0` outside. */
  readonly host: NetworkNamespace;
  readonly board: NetworkNamespace;
  readonly outside: NetworkNamespace;
  /** Starts an agent with a DUT network on `dut0`. */
  agent(config?: Record<string, unknown>, circumstances?: Circumstances): Promise<RunningAgent>;
  /** The board asks for an address. @returns what it was given */
  dhcp(): Promise<{ ip: string; router: string; dns: string }>;
}

export interface RunningAgent {
  readonly network: Calls<typeof dutNetwork>;
  readonly socketPath: string;
  /** All it has printed so far. */
  readonly output: () => string;
  /** Begins a lease. */
  readonly reset: () => Promise<void>;
  /** Ends it with this signal and waits until it has gone. */
  readonly end: (signal: NodeJS.Signals) => Promise<void>;
}

/** A board, a host with an agent, and the world outside, each in a network namespace of its own. */
export async function startDutNetworkLab(t: TestContext): Promise<DutNetworkLab> {
  const host = await newNamespace(t);
  const board = await newNamespace(t);
  const outside = await newNamespace(t);
  // Goes after the agents, which end with their namespace.
  const directory = scratch(t);
  // dnsmasq gives up its rights and must still reach its files.
  chmodSync(directory, 0o755);
  const stateDirectory = join(directory, "state");
  const ip = (where: NetworkNamespace, words: string) => where.run("ip", words.split(" "));
  await ip(host, `link add dut0 type veth peer name eth0 netns ${board.pid}`);
  await ip(host, `link add up0 type veth peer name eth0 netns ${outside.pid}`);
  await ip(host, `address add ${outsideAddress.host}/24 dev up0`);
  await ip(host, "link set up0 up");
  await ip(board, "link set eth0 up");
  await ip(outside, `address add ${outsideAddress.neighbour}/24 dev eth0`);
  await ip(outside, `address add ${outsideAddress.farAway}/32 dev lo`);
  await ip(outside, "link set eth0 up");
  await ip(host, `route add default via ${outsideAddress.neighbour}`);

  const agent: DutNetworkLab["agent"] = async (config = {}, circumstances = {}) => {
    const path = join(directory, `${randomUUID().slice(0, 8)}.yaml`);
    const dut = { interface: "dut0", state_dir: stateDirectory, ...config };
    const type = "jumpstarter_driver_dut_network.driver.DutNetwork";
    const head = { apiVersion: "jumpstarter.dev/v1alpha1", kind: "ExporterConfig" };
    const metadata = { namespace: "default", name: "lab" };
    writeFileSync(path, stringify({ ...head, metadata, export: { network: { type, config: dut } } }));
    const socketPath = join(directory, `${randomUUID().slice(0, 8)}.sock`);
    const words = [process.execPath, "--import", "tsx", "test/sim/exporter-process.ts", path, socketPath];
    const child = host.spawn("unshare", ["--mount", "sh", "-c", prepare(directory, circumstances), "sh", ...words], {
      stdio: "pipe",
      // There is no resolver in here.
      env: { ...process.env, RES_OPTIONS: "attempts:1 timeout:1" },
    });
    const running = await serves(child, socketPath);
    const client = await connect({ host: socketPath });
    t.after(() => client.close());
    return { ...running, network: client.find("network")?.as(dutNetwork) as Calls<typeof dutNetwork>, socketPath };
  };

  const dhcp = async () => {
    const [script, result] = [join(directory, "udhcpc"), join(directory, "lease")];
    writeFileSync(script, udhcpcScript(result), { mode: 0o755 });
    await board.run("busybox", ["udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", script]);
    const [address = "", router = "", dns = ""] = readFileSync(result, "utf8").trim().split(" ");
    return { ip: address, router, dns };
  };
  return { directory, stateDirectory, host, board, outside, agent, dhcp };
}

const nobody = 65_534;
const capabilities = "+net_admin,+net_raw,+net_bind_service";

/** Shell that runs in a mount namespace of the agent's own, before it. */
function prepare(directory: string, { without = [], user }: Circumstances): string {
  // What lies in their place cannot be executed.
  const lines = without.map((name) => `mount --bind /dev/null "$(PATH=$PATH:/usr/sbin command -v ${name})"`);
  let start = 'exec "$@"';
  if (user !== undefined) {
    chmodSync(directory, 0o777);
    start = `exec setpriv --reuid ${nobody} --regid ${nobody} --clear-groups`;
    if (user === "capable") start += ` --inh-caps ${capabilities} --ambient-caps ${capabilities}`;
    start += ' "$@"';
  }
  if (user === "sudoer") {
    const sudoers = join(directory, "sudoers");
    writeFileSync(sudoers, `#${nobody} ALL=(root) NOPASSWD: ALL\n`, { mode: 0o440 });
    lines.push(`mount --bind ${sudoers} /etc/sudoers`);
  }
  return ["set -e", ...lines, start].join("\n");
}

async function serves(child: ChildProcess, socketPath: string) {
  let printed = "";
  child.stdout?.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const isGone = () => child.exitCode !== null || child.signalCode !== null;
  for (let waited = 0; !printed.includes(`serves at ${socketPath}`); waited += 20) {
    if (isGone() || waited > 30_000) throw new Error(`the agent does not start:\n${printed}`);
    await sleep(20);
  }
  let resets = 0;
  return {
    output: () => printed,
    reset: async () => {
      resets += 1;
      child.stdin?.write("reset\n");
      while (printed.split("done: reset").length <= resets) {
        if (isGone()) throw new Error(`the agent has ended:\n${printed}`);
        await sleep(10);
      }
    },
    end: async (signal: NodeJS.Signals) => {
      if (isGone()) return;
      const gone = once(child, "exit");
      child.kill(signal);
      await gone;
    },
  };
}

/** Answers every connection to these ports of a namespace with the address that it sees. */
export async function answerConnections(where: NetworkNamespace, ...ports: number[]): Promise<void> {
  const server = where.spawn(process.execPath, ["-e", whoAreYou, ...ports.map(String)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(server.stdout as NonNullable<typeof server.stdout>, "data");
}

/** Connects. @returns the address as which the other side sees us; undefined if it cannot be reached */
export async function whoAmI(where: NetworkNamespace, host: string, port: number): Promise<string | undefined> {
  const answer = await where.run("busybox", ["nc", "-w", "1", host, String(port)]).catch(() => undefined);
  return answer?.replace("::ffff:", "") || undefined;
}

/** @returns whether a ping is answered */
export async function pings(where: NetworkNamespace, address: string): Promise<boolean> {
  // A busy machine may be late once.
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const answered = await where.run("busybox", ["ping", "-c", "1", "-W", "1", address]).then(
      () => true,
      () => false,
    );
    if (answered) return true;
  }
  return false;
}

/** Asks a DNS server for the IPv4 address of a name; undefined if there is none. */
export async function resolves(where: NetworkNamespace, name: string, server: string): Promise<string | undefined> {
  const answer = await where
    .run("busybox", ["nslookup", "-type=a", "-timeout=1", "-retry=1", name, server])
    .catch(() => "");
  return /Name:[^]*Address(?: 1)?: ([\d.]+)/.exec(answer)?.[1];
}

const ntpClient = `
  const socket = require("node:dgram").createSocket("udp4");
  const request = Buffer.alloc(48);
  request[0] = 0x23;
  request.writeUInt32BE(0x12345678, 40);
  setInterval(() => socket.send(request, 123, process.argv[1]), 200);
  setTimeout(() => process.exit(1), 5000);
  socket.on("message", (reply, from) => { console.log(JSON.stringify({ from: from.address, port: from.port, hex: reply.toString("hex") })); process.exit(); });`;

/** Asks an NTP server for the time. */
export async function askTime(where: NetworkNamespace, server: string) {
  const { from, port, hex } = JSON.parse(await where.run(process.execPath, ["-e", ntpClient, server])) as {
    from: string;
    port: number;
    hex: string;
  };
  const reply = Buffer.from(hex, "hex");
  if (from !== server || port !== 123) throw new Error(`${from}:${port} answers for ${server}:123`);
  if (reply.readUInt32BE(24) !== 0x12345678) throw new Error("it answers another request");
  const transmitMs = (reply.readUInt32BE(40) - 2_208_988_800) * 1_000;
  return { leap: reply.readUInt8(0) >> 6, stratum: reply.readUInt8(1), transmitMs };
}
