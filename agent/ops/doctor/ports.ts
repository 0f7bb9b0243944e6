import { isIPv6 } from "node:net";
import { join } from "node:path";
import type { NeededPort } from "../../driver/driver.ts";
import { attribute, numberAttribute } from "../../sys/sysfs.ts";
import { driverName, needsOf, type Configured } from "./configured.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";
import type { HostRoots } from "./host.ts";
import { ancestry, heldPorts, holdersOf, type HeldPort } from "./sockets.ts";

/** linux/capability.h */
const CAP_NET_BIND_SERVICE = 10n;

/**
 * Whether configured drivers can have their ports. A running agent, and what it has started, is not in the way.
 * @param agents process numbers of running agents
 */
export async function checkPorts(
  configured: readonly Configured[],
  agents: readonly number[],
  { proc }: HostRoots,
): Promise<DoctorFinding[]> {
  const { ok, warning, problem } = findingsOf("ports");
  const needed = portsOf(configured);
  if (needed.length === 0) return [];
  const held = await heldPorts(proc);
  const conflicts = needed.map((need) => ({ ...need, held: held.filter((one) => isInTheWay(one, need.need)) }));
  const inodes = new Set(conflicts.flatMap((conflict) => conflict.held.map(({ inode }) => inode)));
  const holders = inodes.size === 0 ? new Map<string, never>() : await holdersOf(inodes, proc);
  const lowest = (await mayBindAny(proc)) ? 0 : await lowestFreePort(proc);
  const findings: DoctorFinding[] = [];
  for (const { need, drivers, held } of conflicts) {
    const port = `${need.protocol.toUpperCase()} port ${need.port}`;
    const who = drivers.join(", ");
    const others: string[] = [];
    for (const { inode, uid, address } of held) {
      const holder = holders.get(inode);
      const line = holder === undefined ? [] : await ancestry(holder.pid, proc);
      if (line.some((pid) => agents.includes(pid))) continue;
      const name = holder === undefined ? `a process of user ${uid}` : `${holder.name} (process ${holder.pid})`;
      others.push(`${name} at ${isIPv6(address) ? `[${address}]` : address}`);
    }
    if (others.length > 0) {
      const text = `${who}: ${port} is held by ${[...new Set(others)].join(" and ")}`;
      const device = need.interface;
      // Which interface a socket is bound to is not to be seen.
      if (device === undefined) findings.push(problem(text, "stop it, or configure another port"));
      else findings.push(warning(`${text}; it may be in the way on ${device}`, `let it leave out ${device}`));
    } else if (need.port > 0 && need.port < lowest) {
      const hint = "run the agent with CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)";
      findings.push(warning(`${who}: this user may not listen on ${port}`, hint));
    } else {
      findings.push(ok(`${who}: ${port} ${held.length === 0 ? "is free" : "is held by a running agent"}`));
    }
  }
  return findings;
}

interface Need {
  readonly need: NeededPort;
  readonly drivers: string[];
}

/** Exporters of one process share their ports. */
function portsOf(configured: readonly Configured[]): Need[] {
  const needs = new Map<string, Need>();
  for (const exporter of configured) {
    for (const driver of exporter.drivers) {
      for (const need of needsOf(driver).ports ?? []) {
        // 0 is any that is free.
        if (need.port === 0) continue;
        const key = JSON.stringify([need.protocol, need.port, need.hosts, need.interface]);
        const known = needs.get(key) ?? { need, drivers: [] };
        known.drivers.push(driverName(exporter, driver));
        needs.set(key, known);
      }
    }
  }
  return [...needs.values()];
}

const isWildcard = (host: string) => host === "0.0.0.0" || host === "::" || host.startsWith("%");

function isInTheWay(held: HeldPort, { protocol, port, hosts }: NeededPort): boolean {
  if (held.protocol !== protocol || held.port !== port) return false;
  if (hosts.length === 0 || hosts.some(isWildcard) || isWildcard(held.address)) return true;
  return hosts.includes(held.address);
}

async function mayBindAny(proc: string): Promise<boolean> {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec((await attribute(proc, "self/status")) ?? "")?.[1] ?? "0";
  return ((BigInt(`0x${effective}`) >> CAP_NET_BIND_SERVICE) & 1n) === 1n;
}

async function lowestFreePort(proc: string): Promise<number> {
  return (await numberAttribute(join(proc, "sys/net/ipv4/ip_unprivileged_port_start"))) ?? 1024;
}
