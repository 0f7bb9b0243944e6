import type { Filter, FilterRule } from "./config.ts";

/** Rules as text for `nft -f`: pure, so that what the kernel is told can be read and tested. */

export interface Mapping {
  readonly privateIp: string;
  readonly publicIp: string;
}

export interface Nat {
  /** The boards' interface. */
  readonly inside: string;
  /** The way out. */
  readonly outside: string;
  /** CIDR, as configured. */
  readonly subnet: string;
  /** For 1:1 NAT; undefined: masquerade only. */
  readonly mappings: readonly Mapping[] | undefined;
  readonly filter: Filter | undefined;
}

export function tableName(interfaceName: string): string {
  return `jumpstarter_${interfaceName}`.replaceAll("-", "_");
}

export function natTable({ inside, outside, subnet, mappings, filter }: Nat): string {
  const masquerade = `oifname "${outside}" ip saddr ${subnet} masquerade`;
  const chains = [];
  if (mappings === undefined) {
    chains.push(chain("postrouting", "nat hook postrouting priority srcnat", [masquerade]));
  } else {
    chains.push(
      chain(
        "prerouting",
        "nat hook prerouting priority dstnat",
        mappings.map(({ privateIp, publicIp }) => `iifname "${outside}" ip daddr ${publicIp} dnat to ${privateIp}`),
      ),
      // For the host itself, whose packets pass no prerouting. A number: not every nft knows `dstnat` for this hook.
      chain(
        "output",
        "nat hook output priority -100",
        mappings.map(({ privateIp, publicIp }) => `ip daddr ${publicIp} dnat to ${privateIp}`),
      ),
      chain("postrouting", "nat hook postrouting priority srcnat", [
        ...mappings.map(({ privateIp, publicIp }) => `ip saddr ${privateIp} oifname "${outside}" snat to ${publicIp}`),
        masquerade,
      ]),
    );
  }
  const reachable = (mappings ?? []).map(
    ({ privateIp }) => `iifname "${outside}" oifname "${inside}" ip daddr ${privateIp} accept`,
  );
  chains.push(
    chain("forward", "filter hook forward priority filter", forwardRules(inside, outside, filter, reachable)),
  );
  return replaceTable(tableName(inside), chains);
}

/** The policy of the chain stays accept: what else the host forwards is not our business. */
function forwardRules(inside: string, outside: string, filter: Filter | undefined, reachable: string[]): string[] {
  const out = `iifname "${inside}" oifname "${outside}"`;
  const back = `iifname "${outside}" oifname "${inside}"`;
  const known = "ct state related,established accept";
  if (filter === undefined) return [`${out} accept`, `${back} ${known}`, ...reachable];
  const { egress, ingress } = filter;
  return [
    known,
    ...(egress?.rules ?? []).map((rule) => filterRule(out, rule, "ip daddr", rule.destination)),
    `${out} ${egress?.policy ?? "accept"}`,
    ...reachable,
    ...(ingress?.rules ?? []).map((rule) => filterRule(back, rule, "ip saddr", rule.source)),
    `${back} ${ingress?.policy ?? "accept"}`,
  ];
}

function filterRule(way: string, { action, protocol, port }: FilterRule, field: string, peers?: string): string {
  const words = [way];
  if (peers !== undefined) words.push(`${field} ${peers}`);
  // A protocol alone is no match in nft's language.
  if (protocol !== undefined) words.push(port === undefined ? `ip protocol ${protocol}` : `${protocol} dport ${port}`);
  return [...words, action].join(" ");
}

/** Every NTP request of a board comes to us, whichever server it asks. */
export function ntpTable(inside: string, gatewayIp: string, port: number): string {
  return replaceTable(ntpTableName(inside), [
    chain("prerouting", "nat hook prerouting priority dstnat", [
      `iifname "${inside}" udp dport 123 dnat to ${gatewayIp}:${port}`,
    ]),
  ]);
}

export const ntpTableName = (inside: string) => `${tableName(inside)}_ntp`;

/** Deletes a table, also one that is not there. */
export function dropTable(name: string): string {
  return `table ip ${name}\ndelete table ip ${name}\n`;
}

function chain(name: string, hook: string, rules: readonly string[]): string {
  const lines = [`type ${hook}; policy accept;`, ...rules].map((line) => `        ${line}\n`);
  return `    chain ${name} {\n${lines.join("")}    }\n`;
}

/** One transaction: no packet meets a moment without rules, and the old ones stay when the new ones are refused. */
function replaceTable(name: string, chains: readonly string[]): string {
  return `${dropTable(name)}table ip ${name} {\n${chains.join("")}}\n`;
}

/**
 * An empty table says that forwarding of this interface was off before a DUT network came. The kernel keeps it as long as
 * what it speaks of, whoever dies meanwhile, and every network on the host sees it.
 */
const forwardingMark = "jumpstarter_forwarding_";

export function markForwarding(name: string): string {
  return `table ip ${forwardingMark}${name} {\n}\n`;
}

export const forwardingMarkName = (name: string) => forwardingMark + name;

/** Interfaces that were switched to forwarding, and that no DUT network's rules speak of any more. */
export function unusedForwarding(ruleset: string): string[] {
  const tables = [...ruleset.matchAll(/^table ip (jumpstarter_\S+) \{$([^]*?)^\}$/gm)];
  const inUse = (name: string) => tables.some(([, , rules = ""]) => rules.includes(`"${name}"`));
  return tables
    .flatMap(([, table = ""]) => (table.startsWith(forwardingMark) ? [table.slice(forwardingMark.length)] : []))
    .filter((name) => !inUse(name));
}

/** Marks our rules in a chain of others. */
const comment = (inside: string) => `jumpstarter dut-network ${inside}`;

/** Docker's `ip filter FORWARD` drops what it does not know; these let our two interfaces through. */
export function forwardAccepts(inside: string, outside: string): string {
  return [inside, outside]
    .flatMap((name) => ["iifname", "oifname"].map((match) => `${match} "${name}"`))
    .map((match) => `insert rule ip filter FORWARD ${match} accept comment "${comment(inside)}"\n`)
    .join("");
}

/** @param listed the chain as `nft -a list chain ip filter FORWARD` prints it */
export function dropForwardAccepts(listed: string, inside: string): string {
  const ours = `comment "${comment(inside)}" # handle `;
  return listed
    .split("\n")
    .filter((line) => line.includes(ours))
    .map((line) => `delete rule ip filter FORWARD handle ${line.slice(line.lastIndexOf(" ") + 1)}\n`)
    .join("");
}
