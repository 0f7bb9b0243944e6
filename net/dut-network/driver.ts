import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { capture } from "./capture.ts";
import { dutNetworkConfig, parseAddress, parseDnsEntry, withAddress, withDnsEntry } from "./config.ts";
import type { Names } from "./address-service.ts";
import { dutNetwork } from "./interface.ts";
import { Network } from "./network.ts";

/** A capture is a process; one board needs few of them. */
const captureLimit = 8;

export default defineDriver({
  types: ["jumpstarter_driver_dut_network.driver.DutNetwork"],
  summary: "An isolated network for boards: NAT, filter, DHCP, DNS, NTP and capture on one interface.",
  implements: dutNetwork,
  config: dutNetworkConfig,
  needs: (config) => {
    const onInterface = (port: number) => ({ protocol: "udp" as const, port, hosts: [], interface: config.interface });
    return {
      rights: ["network"],
      directories: [config.state_dir],
      programs: ["ip", "nft", ...(config.dhcp_server === "dnsmasq" ? ["dnsmasq"] : [])],
      ports: config.dhcp_enabled ? [onInterface(67)] : [],
    };
  },

  /** The network stands as long as the exporter: boards keep their addresses and connections between leases. */
  async open({ config, log }) {
    const network = new Network(config, log);
    await network.up();
    const closing = new AbortController();
    let captures = 0;
    /** Changes are made one at a time. */
    let last: Promise<unknown> = Promise.resolve();
    const inTurn = <T>(action: () => Promise<T>): Promise<T> => {
      const done = last.then(action);
      last = done.catch(() => {});
      return done;
    };
    const change = (next: (now: Names) => Partial<Names>) =>
      inTurn(() => network.apply({ ...network.names, ...next(network.names) }));
    const subnet = { subnet: config.subnet, gatewayIp: config.gateway_ip };

    return {
      methods: {
        async status() {
          const addresses = await network.host.addresses(config.interface);
          return {
            interface_status: {
              name: config.interface,
              exists: addresses !== undefined,
              addresses: addresses ?? [],
            },
            interface: config.interface,
            upstream: network.upstream ?? null,
            subnet: config.subnet.text,
            nat_mode: config.nat_mode,
            dhcp_enabled: config.dhcp_enabled,
            leases: await network.leases(),
            dns_entries: [...network.names.dnsEntries],
            nat_rules: await network.rules(),
          };
        },
        ntp_status: () => ({ enabled: config.local_ntp, running: network.ntpIsRunning }),
        async get_dut_ip(_call, mac) {
          const leases = await network.leases();
          return leases.find((lease) => lease.mac.toLowerCase() === mac.toLowerCase())?.ip ?? null;
        },
        get_leases: () => network.leases(),
        async add_address({ log }, ip, mac, hostname, public_ip) {
          const entry = parseAddress({ ip, mac, hostname, public_ip });
          await change(({ addresses }) => ({ addresses: withAddress(addresses, entry, subnet) }));
          log.info(`Added address: ip=${ip} mac=${mac ?? ""} hostname=${hostname ?? ""}`);
        },
        async remove_address({ log }, ip) {
          await change(({ addresses }) => ({ addresses: addresses.filter((entry) => entry.ip !== ip) }));
          log.info(`Removed address for ip=${ip}`);
        },
        get_nat_rules: () => network.rules(),
        get_dns_entries: () => [...network.names.dnsEntries],
        async add_dns_entry({ log }, hostname, ip) {
          const entry = parseDnsEntry({ hostname, ip });
          await change(({ dnsEntries }) => ({ dnsEntries: withDnsEntry(dnsEntries, entry) }));
          log.info(`Added DNS entry: ${hostname} -> ${ip}`);
        },
        async remove_dns_entry({ log }, hostname) {
          await change(({ dnsEntries }) => ({ dnsEntries: dnsEntries.filter((entry) => entry.hostname !== hostname) }));
          log.info(`Removed DNS entry: ${hostname}`);
        },
        async *tcpdump({ signal }, args) {
          if (!config.enable_tcpdump) {
            throw new AgentError(
              "E_FAILED",
              "tcpdump is not enabled. Set 'enable_tcpdump: true' in the driver config.",
            );
          }
          if (captures >= captureLimit) throw new AgentError("E_LIMIT", `${captureLimit} captures run already`);
          captures += 1;
          try {
            const until = anySignal([signal, closing.signal]);
            yield* capture(network.privileged, config.interface, args ?? [], until);
          } finally {
            captures -= 1;
          }
        },
      },

      /** What the last client has added goes; what has fallen down meanwhile is brought up again. */
      reset: () =>
        inTurn(async () => {
          if (await network.isUp()) {
            if (network.names !== network.configured) await network.apply(network.configured);
            return;
          }
          log.warn(`the DUT network on ${config.interface} does not stand any more: it is brought up again`);
          await network.down();
          await network.up();
        }),
      close: () => {
        closing.abort(new AgentError("E_CANCELLED", "the DUT network is closing"));
        return inTurn(() => network.down());
      },
    };
  },
});
