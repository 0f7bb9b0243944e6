import { isIPv4 } from "node:net";
import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { addressNumber, addressText } from "../dhcp/protocol.ts";
import { contains, isHostOf, parseSubnet, type Subnet } from "./ipv4.ts";

/** What boards may have in one network is small; these bound what clients add. */
const entryLimit = 1_024;

const interfaceName = z
  .string()
  .refine((name) => /^[A-Za-z0-9._-]{1,15}$/.test(name) && name !== "." && name !== "..", {
    error: ({ input }) => `Invalid interface name: '${String(input)}'`,
  });

const ipv4 = z.string().refine(isIPv4, { error: ({ input }) => `'${String(input)}' is not an IPv4 address` });

const hostname = z.string().refine((name) => /^[A-Za-z0-9._-]{1,253}$/.test(name), {
  error: ({ input }) => `Invalid hostname: '${String(input)}'`,
});

const mac = z
  .string()
  .refine((text) => /^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$/.test(text), {
    error: ({ input }) => `Invalid MAC address: '${String(input)}'`,
  })
  .toLowerCase();

/** Clients and YAML leave things out as null or as an empty string. */
const given = <S extends z.ZodType>(schema: S) =>
  z.preprocess((value) => (value === null || value === "" ? undefined : value), schema.optional());

const address = z.strictObject({
  ip: ipv4,
  mac: given(mac).describe("gets this address by DHCP"),
  hostname: given(hostname),
  public_ip: given(hostname).describe("address, or name of one, for 1:1 NAT"),
});

const dnsEntry = z.strictObject({ hostname, ip: ipv4 });

const verdict = z.enum(["accept", "drop"]);
const peers = z.string().refine((text) => parseSubnet(text) !== undefined, {
  error: ({ input }) => `'${String(input)}' is not a valid IPv4 network address`,
});

const rule = z
  .strictObject({
    action: verdict,
    destination: given(peers),
    source: given(peers),
    port: given(lax.port()),
    protocol: given(z.enum(["tcp", "udp"])),
  })
  .refine(({ port, protocol }) => port === undefined || protocol !== undefined, "port requires protocol to be set");

const direction = z.strictObject({
  policy: verdict.default("accept"),
  rules: z.array(rule).max(entryLimit).default([]),
});

/** As the Python driver, keys of no meaning are passed over. */
const filter = z.object({ egress: direction.nullish(), ingress: direction.nullish() });

const natModes = ["masquerade", "1to1", "disabled", "none"] as const;

export const dutNetworkConfig = z
  .strictObject({
    interface: interfaceName.describe("the boards' side; all its addresses are replaced"),
    subnet: z.string().default("192.168.100.0/24").describe("the boards' IPv4 network"),
    gateway_ip: ipv4.default("192.168.100.1").describe("our address in it"),
    upstream_interface: given(interfaceName).describe("the way out; default: that of the default route"),
    public_interface: given(interfaceName).describe("where public addresses of 1:1 NAT live; default: the way out"),
    nat_mode: z.enum(natModes).default("masquerade"),
    dhcp_enabled: lax.boolean().default(true),
    dhcp_server: given(z.enum(["builtin", "dnsmasq"])).describe(
      "who gives addresses; default: builtin where the agent itself has the rights and koffi for it",
    ),
    dhcp_range_start: given(ipv4),
    dhcp_range_end: given(ipv4),
    addresses: z.array(address).max(entryLimit).default([]).describe("fixed addresses of boards"),
    dns_servers: z.array(ipv4).max(16).default(["8.8.8.8", "8.8.4.4"]),
    dns_entries: z.array(dnsEntry).max(entryLimit).default([]).describe("names that boards can resolve"),
    local_ntp: lax.boolean().default(false).describe("answer NTP, whichever server a board asks"),
    ntp_local_clock: lax
      .boolean()
      .default(false)
      .describe("give out the host's time even while nothing keeps its clock right"),
    enable_tcpdump: lax.boolean().default(false).describe("let clients watch the boards' traffic"),
    filter: filter.nullish().describe("what boards may reach (egress), and what may reach them (ingress)"),
    state_dir: given(z.string().startsWith("/", "must be an absolute path")).describe(
      "default /var/lib/jumpstarter/dut-network-<interface>; deleted when the network closes",
    ),
  })
  .transform(({ dhcp_range_start, dhcp_range_end, ...config }, context) => {
    const problem = (path: string, message: string) => {
      context.addIssue({ code: "custom", path: [path], message });
      return z.NEVER;
    };
    const subnet = parseSubnet(config.subnet);
    if (subnet === undefined || subnet.prefixLength > 30) {
      return problem("subnet", `'${config.subnet}' is not an IPv4 network of two hosts or more`);
    }
    if (!contains(subnet, config.gateway_ip)) {
      return problem("gateway_ip", `Gateway ${config.gateway_ip} is not within subnet ${config.subnet}`);
    }
    if (!isHostOf(subnet, config.gateway_ip)) {
      return problem("gateway_ip", `Gateway ${config.gateway_ip} is the address of the network or its broadcast`);
    }
    if (config.upstream_interface === config.interface) {
      return problem("upstream_interface", "must not be the boards' interface");
    }
    if (config.nat_mode === "1to1" && !config.addresses.some(({ public_ip }) => public_ip !== undefined)) {
      return problem("addresses", "At least one address entry must have public_ip for 1:1 NAT mode");
    }
    const usual = usualRange(subnet);
    const range = { start: dhcp_range_start ?? usual.start, end: dhcp_range_end ?? usual.end };
    for (const [key, edge] of [
      ["dhcp_range_start", range.start],
      ["dhcp_range_end", range.end],
    ] as const) {
      if (config.dhcp_enabled && !isHostOf(subnet, edge)) {
        return problem(key, `DHCP range ${range.start} to ${range.end} is not within subnet ${config.subnet}`);
      }
    }
    if (addressNumber(range.start) > addressNumber(range.end)) {
      return problem("dhcp_range_end", `DHCP range ends at ${range.end}, before it starts at ${range.start}`);
    }
    let addresses: readonly Address[] = [];
    for (const [index, entry] of config.addresses.entries()) {
      try {
        const merged = withAddress(addresses, entry, { subnet, gatewayIp: config.gateway_ip });
        if (merged.length <= addresses.length) return problem(`addresses.${index}`, "its ip or mac is there twice");
        addresses = merged;
      } catch (error) {
        return problem(`addresses.${index}`, (error as Error).message);
      }
    }
    const { egress, ingress } = config.filter ?? {};
    return {
      ...config,
      subnet,
      range,
      // An empty filter is none.
      filter: egress || ingress ? { egress: egress ?? undefined, ingress: ingress ?? undefined } : undefined,
      state_dir: config.state_dir ?? `/var/lib/jumpstarter/dut-network-${config.interface}`,
    };
  });

export type DutNetworkConfig = z.output<typeof dutNetworkConfig>;
export type Address = z.output<typeof address>;
export type DnsEntry = z.output<typeof dnsEntry>;
export type FilterRule = z.output<typeof rule>;
export type Filter = NonNullable<DutNetworkConfig["filter"]>;

export const natIsOff = ({ nat_mode }: Pick<DutNetworkConfig, "nat_mode">) =>
  nat_mode === "disabled" || nat_mode === "none";

/** `.100` to `.200` where that is in the network, else all of it. */
function usualRange(subnet: Subnet): { start: string; end: string } {
  const [start, end] = [subnet.first + 100, subnet.first + 200];
  return end < subnet.last
    ? { start: addressText(start), end: addressText(end) }
    : { start: addressText(subnet.first + 1), end: addressText(subnet.last - 1) };
}

/** Checks an address as clients give it. @throws AgentError E_INVALID */
export function parseAddress(value: Record<keyof Address, unknown>): Address {
  return parsed(address, value);
}

/** Checks a name as clients give it. @throws AgentError E_INVALID */
export function parseDnsEntry(value: Record<keyof DnsEntry, unknown>): DnsEntry {
  return parsed(dnsEntry, value);
}

function parsed<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new AgentError("E_INVALID", result.error.issues.map(({ message }) => message).join("; "));
}

/**
 * The list with this entry instead of those of the same ip or mac: the last word counts.
 * @throws AgentError E_INVALID if no board of the network can have it
 */
export function withAddress(
  entries: readonly Address[],
  entry: Address,
  { subnet, gatewayIp }: { subnet: Subnet; gatewayIp: string },
): Address[] {
  const refuse = (why: string) => new AgentError("E_INVALID", `Address ${entry.ip} ${why}`);
  if (!isHostOf(subnet, entry.ip)) throw refuse(`is not within subnet ${subnet.text}`);
  if (entry.ip === gatewayIp) throw refuse("is the gateway's own");
  const others = entries.filter(({ ip, mac }) => ip !== entry.ip && (mac === undefined || mac !== entry.mac));
  if (entry.public_ip !== undefined && others.some(({ public_ip }) => public_ip === entry.public_ip)) {
    throw refuse(`cannot have the public address ${entry.public_ip}: another one has it`);
  }
  if (others.length >= entryLimit) throw new AgentError("E_LIMIT", `there are ${entryLimit} addresses already`);
  return [...others, entry];
}

/** The list with this entry instead of that of the same name. */
export function withDnsEntry(entries: readonly DnsEntry[], entry: DnsEntry): DnsEntry[] {
  const others = entries.filter(({ hostname }) => hostname !== entry.hostname);
  if (others.length >= entryLimit) throw new AgentError("E_LIMIT", `there are ${entryLimit} names already`);
  return [...others, entry];
}
