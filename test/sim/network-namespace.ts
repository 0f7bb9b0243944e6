import { spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { once } from "node:events";
import type { TestContext } from "node:test";

/** The address of the host as boards see it, by how they are connected. */
export const hostAddress = { user: "10.99.0.1", tap: "10.77.0.1" } as const;
/** @param index of the board */
export const tapOf = (index: number) => `tap${index}`;
export const tapName = tapOf(0);
/** What the board gets on the tap. */
export const boardAddress = "10.77.0.2";
/** The host's address on the tap of a board. @param index of the board */
export const gatewayOf = (index: number) => `10.77.${index}.1`;
export const networkOf = (index: number) => `10.77.${index}.0/24`;

export interface NetworkOptions {
  /** user: QEMU's NAT, which reaches the host's loopback; tap: an Ethernet of their own. */
  readonly kind: "user" | "tap";
  /** How many boards there are, each with a tap of its own; 1 without it. */
  readonly boards?: number;
  /** Percentage of packets, each way, that get lost between the host and the board; on a tap only. */
  readonly lossPercent?: number;
}

/** A network of its own for one test, with all ports free. It is gone when its processes are. */
export interface NetworkNamespace {
  /** Of a process that lives in there. */
  readonly pid: number;
  /** Starts a program in there; it ends with the test. */
  spawn(command: string, args: readonly string[], options?: SpawnOptions): ChildProcess;
  /** Runs a program in there to its end. @returns what it printed. Rejects if it fails */
  run(command: string, args: readonly string[]): Promise<string>;
}

const userNetwork = [`ip address add ${hostAddress.user}/32 dev lo`];

/** @param device the host's own end */
const hostOn = (device: string) => [
  `ip address add ${hostAddress.tap}/24 dev ${device}`,
  `ip link set ${device} up`,
  `ip route add 255.255.255.255/32 dev ${device}`,
];

const tapNetwork = [`ip tuntap add ${tapName} mode tap`, `ip link set ${tapName} up`, ...hostOn(tapName)];

/** Beside the first tap; not on one Ethernet with it, as U-Boot gives all QEMU's boards the same MAC address. */
const anotherTap = (index: number) => [
  `ip tuntap add ${tapOf(index)} mode tap`,
  `ip address add ${gatewayOf(index)}/24 dev ${tapOf(index)}`,
  `ip link set ${tapOf(index)} up`,
];

/**
 * A wire between host and tap that loses single packets: what leaves many at a time (UDP segmentation offload) is cut
 * before it gets to the wire's other end.
 */
const lossyNetwork = (percent: number) => [
  `ip tuntap add ${tapName} mode tap`,
  "ip link add host0 type veth peer name wire0",
  "ip link add lab0 type bridge",
  `for port in wire0 ${tapName}; do ip link set $port master lab0 up; done`,
  "ip link set lab0 up",
  "ethtool --features host0 tx-udp-segmentation off",
  ...hostOn("host0"),
  `nft -f - <<'RULES'\n${lossRules(percent)}\nRULES`,
];

/**
 * Drops where packets come in, so that neither side is told. Requests get through: of one that is lost no TFTP server can
 * know, only the client can wait and ask again.
 */
const lossRules = (percent: number) => `table netdev loss {
  chain in {
    type filter hook ingress device "${tapName}" priority 0;
    udp dport 69 accept
    numgen random mod 100 < ${percent} drop
  }
  chain out {
    type filter hook ingress device "wire0" priority 0;
    numgen random mod 100 < ${percent} drop
  }
}`;

/** Programs end with the test runner, even when that is killed. */
const untilWeDie = ["--pdeathsig", "KILL"];

/** Needs root. */
export async function startNetwork(t: Pick<TestContext, "after">, options: NetworkOptions): Promise<NetworkNamespace> {
  const { kind, lossPercent = 0, boards = 1 } = options;
  const tap = lossPercent > 0 ? lossyNetwork(lossPercent) : [...tapNetwork];
  for (let index = 1; index < boards; index += 1) tap.push(...anotherTap(index));
  return await newNamespace(t, kind === "tap" ? tap : userNetwork);
}

/** @param setUp lines of shell that run in there first. Needs root. */
export async function newNamespace(
  t: Pick<TestContext, "after">,
  setUp: readonly string[] = [],
): Promise<NetworkNamespace> {
  const script = ["set -e", "ip link set lo up", ...setUp, "echo ready", "exec sleep infinity"].join("\n");
  const holder = spawn("setpriv", [...untilWeDie, "unshare", "--net", "sh", "-c", script], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const children: ChildProcess[] = [];
  t.after(async () => {
    for (const child of children.reverse()) await stopped(child, "SIGTERM");
    await stopped(holder, "SIGKILL");
  });
  let errors = "";
  holder.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  await Promise.race([
    once(holder.stdout, "data"),
    once(holder, "close").then(() => {
      throw new Error(`no network namespace: ${errors}`);
    }),
  ]);
  const start = (command: string, args: readonly string[], spawnOptions: SpawnOptions = {}) => {
    const words = [...untilWeDie, "nsenter", "--target", `${holder.pid}`, "--net", command, ...args];
    const child = spawn("setpriv", words, spawnOptions);
    children.push(child);
    return child;
  };
  const run = async (command: string, args: readonly string[]) => {
    const child = start(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let [printed, said] = ["", ""];
    child.stdout?.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const [code] = (await once(child, "close")) as [number | null];
    if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code}: ${said}`);
    return printed;
  };
  return { pid: holder.pid ?? 0, spawn: start, run };
}

const patienceMs = 10_000;

async function stopped(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), patienceMs);
  await once(child, "exit");
  clearTimeout(timer);
}
