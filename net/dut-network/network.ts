import { lookup } from "node:dns/promises";
import { isIPv4 } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { hostClock } from "../ntp/clock.ts";
import { NtpServer } from "../ntp/server.ts";
import { natIsOff, type Address, type DutNetworkConfig } from "./config.ts";
import type { AddressService, Names } from "./address-service.ts";
import { BuiltinDhcp } from "./builtin.ts";
import { Dnsmasq } from "./dnsmasq.ts";
import { HostNetwork } from "./host.ts";
import type { Lease } from "./interface.ts";
import { lockInterface } from "./lock.ts";
import { natTable, ntpTable, ntpTableName, tableName, type Mapping } from "./nft.ts";
import { findTool, Privileged } from "./privilege.ts";
import { assertTools, chooseDhcpServer } from "./requirements.ts";
import { StateDirectory, type Changes } from "./state.ts";

const ntpPort = 123;
/** The system's resolver may try for half a minute where its servers do not answer. */
const lookupLimitMs = 5_000;

/** The boards' network on this host: brought up, changed step by step, and taken down with nothing left. */
export class Network {
  readonly privileged = new Privileged();
  readonly host = new HostNetwork(this.privileged);
  /** The way out; undefined without NAT unless it is configured. */
  upstream: string | undefined;
  readonly #config: DutNetworkConfig;
  readonly #log: Logger;
  readonly #state: StateDirectory;
  #service: AddressService | undefined;
  #changes: Changes | undefined;
  #ntp: NtpServer | undefined;
  #unlock: (() => Promise<void>) | undefined;
  #configured: Names = { addresses: [], dnsEntries: [] };
  #names: Names = this.#configured;

  constructor(config: DutNetworkConfig, log: Logger) {
    this.#config = config;
    this.#log = log;
    this.#state = new StateDirectory(config.state_dir, this.privileged);
  }

  /** What holds now; public addresses are numbers, also where a name was configured. */
  get names(): Names {
    return this.#names;
  }

  /** What the configuration asks for. */
  get configured(): Names {
    return this.#configured;
  }

  get ntpIsRunning(): boolean {
    return this.#ntp !== undefined;
  }

  /** Brings it up as configured. @throws DeviceOffline with the reason; then nothing is left of the attempt */
  async up(): Promise<void> {
    const { interface: inside } = this.#config;
    const { direct } = this.privileged;
    const dhcpServer = await chooseDhcpServer(this.#config, direct);
    assertTools(this.#config, direct, dhcpServer);
    this.#service = this.#makeService(dhcpServer);
    this.#unlock = await lockInterface(inside);
    try {
      await this.#bringUp();
    } catch (thrown) {
      await this.down();
      const { message, hint } = toAgentError(thrown);
      throw new DeviceOffline(message, { hint, cause: thrown });
    }
    const { subnet, nat_mode, local_ntp } = this.#config;
    const words = [`interface=${inside}`, `subnet=${subnet.text}`, `nat=${nat_mode}`, `local_ntp=${local_ntp}`];
    this.#log.info(`DUT network configured: ${words.join(" ")}`);
  }

  #makeService(dhcpServer: "builtin" | "dnsmasq"): AddressService | undefined {
    if (!this.#config.dhcp_enabled) return undefined;
    if (dhcpServer === "dnsmasq") return this.#dnsmasq(this.#config.range);
    const dns = findTool("dnsmasq") === undefined ? undefined : this.#dnsmasq(undefined);
    return new BuiltinDhcp(this.#config, dns, this.#log);
  }

  #dnsmasq(dhcp: DutNetworkConfig["range"] | undefined): Dnsmasq {
    const { interface: name, gateway_ip: gatewayIp, dns_servers: dnsServers, state_dir: directory } = this.#config;
    return new Dnsmasq({ directory, interface: name, gatewayIp, dnsServers, dhcp }, this.privileged, this.#log);
  }

  async #bringUp(): Promise<void> {
    const { interface: inside, gateway_ip, subnet, filter } = this.#config;
    const nat = !natIsOff(this.#config);
    if ((await this.host.addresses(inside)) === undefined) throw new Error(`interface ${inside} does not exist`);
    const wayOut = await this.host.wayOut();
    // Its addresses are about to be replaced: that would cut off the host.
    if (wayOut === inside) throw new Error(`${inside} is this host's own way out, it cannot be a DUT network`);
    this.upstream = this.#config.upstream_interface ?? (nat ? wayOut : undefined);
    if (nat && this.upstream === undefined) {
      throw new Error("Cannot detect upstream interface and none was configured");
    }
    if (filter !== undefined && !nat) this.#log.warn("the filter has no meaning without NAT: nothing is forwarded");

    await this.#state.make();
    const leftovers = await this.#state.leftovers();
    await this.#undo(leftovers);
    this.#changes = await this.#state.none();
    await this.#note({});
    this.#configured = {
      addresses: await Promise.all(this.#config.addresses.map(withResolvedName)),
      dnsEntries: this.#config.dns_entries,
    };

    if (await this.host.hasNetworkManager()) {
      await this.#note({ unmanaged: true });
      await this.host.setManaged(inside, false);
    }
    await this.host.configure(inside, `${gateway_ip}/${subnet.prefixLength}`);
    if (nat) {
      for (const { publicIp } of this.#mappings(this.#configured) ?? []) await this.#addAlias(publicIp);
      // Rules before roads: nothing is forwarded that they do not allow.
      await this.#loadNat(this.#configured);
      for (const name of new Set([inside, this.#outside, this.upstream ?? inside])) await this.#forward(name);
      if (await this.host.passDocker(inside, this.#outside)) this.#log.info("Docker lets this network through");
    }
    await this.#service?.start(this.#configured);
    if (this.#config.local_ntp) await this.#startNtp();
    this.#names = this.#configured;
  }

  /** Whether all of it still stands: an adapter may have been unplugged, dnsmasq killed, rules flushed. */
  async isUp(): Promise<boolean> {
    const { interface: inside, gateway_ip, subnet, local_ntp } = this.#config;
    if (this.#changes === undefined) return false;
    if (this.#service?.running === false) return false;
    const addresses = await this.host.addresses(inside);
    if (addresses?.includes(`${gateway_ip}/${subnet.prefixLength}`) !== true) return false;
    if (local_ntp && (await this.host.rules(ntpTableName(inside))) === "") return false;
    return natIsOff(this.#config) || (await this.rules()) !== "";
  }

  rules(): Promise<string> {
    return this.host.rules(tableName(this.#config.interface));
  }

  /** Leases, and the addresses that are kept for boards which have not asked yet. */
  async leases(): Promise<Lease[]> {
    const leases = (await this.#service?.leases()) ?? [];
    const known = new Set(leases.map(({ mac }) => mac.toLowerCase()));
    const kept = this.#names.addresses.flatMap(({ mac, ip, hostname = "" }) =>
      mac === undefined || known.has(mac) ? [] : [{ mac, ip, hostname, expiry: 0 }],
    );
    return [...leases, ...kept];
  }

  /** Takes over other addresses and names; if that fails, what held before still holds. */
  async apply(wanted: Names): Promise<void> {
    if (this.#changes === undefined) throw new DeviceOffline("the DUT network is down");
    const before = this.#names;
    const next = { ...wanted, addresses: await Promise.all(wanted.addresses.map(withResolvedName)) };
    const mappings = this.#mappings(next);
    const publicIps = new Set(mappings?.map(({ publicIp }) => publicIp));
    if (publicIps.size < (mappings?.length ?? 0)) {
      throw new AgentError("E_INVALID", "two addresses cannot have the same public address");
    }
    try {
      for (const publicIp of publicIps) await this.#addAlias(publicIp);
      if (mappings !== undefined) await this.#loadNat(next);
      await this.#service?.update(next);
    } catch (error) {
      await this.#attempt("names", async () => this.#service?.update(before));
      if (mappings !== undefined) await this.#attempt("NAT rules", () => this.#loadNat(before));
      await this.#dropAliases(before);
      throw error;
    }
    this.#names = wanted === this.#configured ? wanted : next;
    await this.#dropAliases(next);
  }

  /** Takes down what is up, and what an attempt to bring it up has left. */
  async down(): Promise<void> {
    this.#ntp?.stop();
    this.#ntp = undefined;
    const changes = this.#changes;
    this.#changes = undefined;
    if (changes !== undefined) {
      this.#log.info("Cleaning up DUT network configuration");
      await this.#undo(changes);
      await this.#attempt("interface", () => this.host.deconfigure(this.#config.interface));
      if (changes.unmanaged) {
        await this.#attempt("NetworkManager", () => this.host.setManaged(this.#config.interface, true));
      }
      await this.#attempt("state", () => this.#state.remove());
    }
    await this.#unlock?.();
    this.#unlock = undefined;
  }

  /** Everything but the interface itself and the leases. */
  async #undo(changes: Changes): Promise<void> {
    const { interface: inside } = this.#config;
    await this.#attempt("DHCP", async () => this.#service?.stop());
    // An agent before us may have had another configuration.
    await this.#attempt("dnsmasq", () => this.#dnsmasq(undefined).stop());
    if (!natIsOff(this.#config) || this.#config.local_ntp) {
      await this.#attempt("nftables", () => this.host.dropTables(tableName(inside), ntpTableName(inside)));
      await this.#attempt("Docker's rules", () => this.host.unpassDocker(inside));
      await this.#attempt("forwarding", () => this.host.releaseForwarding());
    }
    for (const { interface: name, address } of changes.aliases) {
      await this.#attempt("alias", () => this.host.removeAddress(name, address));
    }
  }

  /** Undoing goes on where a step fails. */
  async #attempt(what: string, step: () => Promise<unknown>): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.#log.warn(`DUT network, undoing ${what}: ${toAgentError(error).message}`);
    }
  }

  /** Where packets leave: public addresses may have an interface of their own. */
  get #outside(): string {
    const { nat_mode, public_interface } = this.#config;
    return (nat_mode === "1to1" ? public_interface : undefined) ?? this.upstream ?? "";
  }

  /** Undefined unless NAT is 1:1. */
  #mappings({ addresses }: Names): Mapping[] | undefined {
    if (this.#config.nat_mode !== "1to1") return undefined;
    return addresses.flatMap(({ ip, public_ip }) =>
      public_ip === undefined ? [] : [{ privateIp: ip, publicIp: public_ip }],
    );
  }

  async #loadNat(names: Names): Promise<void> {
    const { interface: inside, subnet, filter } = this.#config;
    const mappings = this.#mappings(names);
    await this.host.loadRules(natTable({ inside, outside: this.#outside, subnet: subnet.text, mappings, filter }));
  }

  /** Remembers a change before it is made. */
  async #note(change: Partial<Changes>): Promise<void> {
    const changes = this.#changes;
    if (changes === undefined) throw new Error("the DUT network is down");
    await this.#state.note(Object.assign(changes, change));
  }

  async #forward(name: string): Promise<void> {
    if ((await this.host.addresses(name)) === undefined) throw new Error(`interface ${name} does not exist`);
    await this.host.forward(name);
  }

  /** An address that the host has already is not ours to remove. */
  async #addAlias(publicIp: string): Promise<void> {
    const present = (await this.host.addresses(this.#outside)) ?? [];
    if (present.some((address) => address.startsWith(`${publicIp}/`))) return;
    const address = `${publicIp}/${present[0]?.split("/")[1] ?? 24}`;
    await this.#note({ aliases: [...(this.#changes?.aliases ?? []), { interface: this.#outside, address }] });
    await this.host.addAddress(this.#outside, address);
  }

  /** Removes our aliases that nobody has any more. */
  async #dropAliases(names: Names): Promise<void> {
    const wanted = new Set(this.#mappings(names)?.map(({ publicIp }) => publicIp));
    const aliases = this.#changes?.aliases ?? [];
    const stale = aliases.filter(({ address }) => !wanted.has(address.split("/")[0] ?? ""));
    if (stale.length === 0) return;
    for (const { interface: name, address } of stale) {
      await this.#attempt("alias", () => this.host.removeAddress(name, address));
    }
    const kept = aliases.filter((alias) => !stale.includes(alias));
    await this.#attempt("state", () => this.#note({ aliases: kept }));
  }

  async #startNtp(): Promise<void> {
    const { interface: inside, gateway_ip, ntp_local_clock: anyway } = this.#config;
    const clock = await hostClock(this.#log);
    const listen = (port: number) => NtpServer.start({ host: gateway_ip, port, clock, anyway, log: this.#log });
    // The host's own NTP server may have the port; boards are sent to ours by a rule, which can name any.
    const server = await listen(ntpPort).catch((error: unknown) => {
      if (isSystemError(error) && ["EADDRINUSE", "EACCES"].includes(error.code)) return listen(0);
      throw error;
    });
    this.#ntp = server;
    await this.host.loadRules(ntpTable(inside, gateway_ip, server.port));
    if (!clock().synchronised) {
      this.#log.warn(`NTP: nothing keeps this host's clock right${anyway ? "" : ", boards are told not to trust it"}`);
    }
  }
}

/** @throws AgentError E_INVALID if its public name has no IPv4 address */
async function withResolvedName(address: Address): Promise<Address> {
  const { public_ip: name } = address;
  if (name === undefined || isIPv4(name)) return address;
  const late = new AbortController();
  const resolved = await Promise.race([
    lookup(name, { family: 4 }).catch(() => undefined),
    sleep(lookupLimitMs, undefined, { signal: late.signal }),
  ]);
  late.abort();
  if (resolved !== undefined) return { ...address, public_ip: resolved.address };
  throw new AgentError(
    "E_INVALID",
    `Cannot resolve hostname '${name}' to an IPv4 address. Provide a valid IP address or a resolvable DNS name.`,
  );
}
