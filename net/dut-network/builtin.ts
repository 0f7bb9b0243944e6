import { join } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { DhcpServer } from "../dhcp/server.ts";
import type { AddressService, Names } from "./address-service.ts";
import type { DutNetworkConfig } from "./config.ts";
import type { Dnsmasq } from "./dnsmasq.ts";
import type { Lease } from "./interface.ts";
import { netmaskOf } from "./ipv4.ts";

/** As dnsmasq is told to. */
const leaseSeconds = 12 * 3600;
/** A label of DNS; DHCP's option 12 holds one. */
const hostNameChars = 63;

/** Addresses by our own DHCP server; names by dnsmasq where it is installed, else by the configured servers. */
export class BuiltinDhcp implements AddressService {
  readonly #config: DutNetworkConfig;
  /** For names only. */
  readonly #dns: Dnsmasq | undefined;
  readonly #log: Logger;
  #server: DhcpServer | undefined;

  constructor(config: DutNetworkConfig, dns: Dnsmasq | undefined, log: Logger) {
    this.#config = config;
    this.#dns = dns;
    this.#log = log;
  }

  get running(): boolean {
    return this.#server !== undefined && this.#dns?.running !== false;
  }

  async start(names: Names): Promise<void> {
    const { interface: name, gateway_ip, subnet, range, dns_servers, local_ntp, state_dir } = this.#config;
    await this.#dns?.start(withHostNames(names));
    this.#server = await DhcpServer.start(
      {
        interface: name,
        address: gateway_ip,
        netmask: netmaskOf(subnet),
        pool: { first: range.start, last: range.end },
        leaseSeconds,
        router: gateway_ip,
        dns: this.#dns === undefined ? dns_servers : [gateway_ip],
        ntp: local_ntp ? [gateway_ip] : [],
        leaseFile: join(state_dir, "leases"),
        reservations: reservations(names),
      },
      this.#log,
    );
  }

  async update(names: Names): Promise<void> {
    if (this.#server === undefined) throw new AgentError("E_FAILED", "the DHCP server does not run");
    if (this.#dns === undefined && names.dnsEntries.length > 0) {
      throw new AgentError("E_UNSUPPORTED", "DNS entries need dnsmasq, which is not installed on the exporter's host", {
        hint: "apt-get install -y dnsmasq-base",
      });
    }
    this.#server.update({ reservations: reservations(names) });
    await this.#dns?.update(withHostNames(names));
  }

  async leases(): Promise<Lease[]> {
    return (this.#server?.leases() ?? [])
      .filter(({ state }) => state === "bound")
      .map(({ mac, address, hostName, expires }) => ({
        mac,
        ip: address,
        hostname: hostName ?? "",
        expiry: Math.floor(expires.getTime() / 1000),
      }));
  }

  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    await server?.stop();
    await this.#dns?.stop();
  }
}

function reservations({ addresses }: Names) {
  return Object.fromEntries(
    addresses.flatMap(({ mac, ip, hostname }) => {
      if (mac === undefined) return [];
      const hostName = hostname !== undefined && hostname.length <= hostNameChars ? hostname : undefined;
      return [[mac, { address: ip, ...(hostName && { hostName }) }]];
    }),
  );
}

/** Boards find each other by the names they were given, as with dnsmasq, which knows them from its leases. */
function withHostNames({ addresses, dnsEntries }: Names): Names {
  const named = addresses.flatMap(({ ip, hostname }) => (hostname === undefined ? [] : [{ hostname, ip }]));
  return { addresses: [], dnsEntries: [...dnsEntries, ...named] };
}
