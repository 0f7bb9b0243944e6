import { stringify } from "yaml";
import type { HostConfig } from "./schema.ts";

/** A file of the system, or a link. */
export interface SystemFile {
  /** Below the root, such as `etc/hostname`. */
  readonly path: string;
  readonly content?: string;
  readonly link?: string;
  readonly mode: number;
  /** Read by the agent's group too. */
  readonly forAgent?: true;
}

/** An exporter's configuration that lies beside jumpstarter.yaml. */
export interface ExporterFile {
  readonly name: string;
  readonly text: string;
}

/** All files that a configuration makes. Pure. @param hostname for a configuration without one */
export function systemFiles(
  config: HostConfig,
  { hostname, exporters }: { hostname: string; exporters: readonly ExporterFile[] },
): SystemFile[] {
  const { network, tokens, ssh } = config;
  const open = (path: string, content: string): SystemFile => ({ path, content, mode: 0o644 });
  const secret = (path: string, content: string): SystemFile => ({ path, content, mode: 0o600 });
  const forAgent = (name: string, content: string): SystemFile => ({
    ...{ path: `etc/jumpstarter/exporters/${name}.yaml`, content },
    ...{ mode: 0o640, forAgent: true },
  });
  return [
    open("etc/hostname", `${config.hostname ?? hostname}\n`),
    open("etc/hosts", hosts(config, config.hostname ?? hostname)),
    { path: "etc/localtime", link: `../usr/share/zoneinfo/${config.timezone}`, mode: 0o644 },
    open("etc/systemd/network/20-wired.network", wiredNetwork(network.ethernet)),
    ...(config.ntp.length === 0
      ? []
      : [open("etc/systemd/timesyncd.conf.d/jumpstarter.conf", `[Time]\nNTP=${config.ntp.join(" ")}\n`)]),
    ...(network.wifi === undefined ? [] : wifiFiles(network.wifi)),
    ...(ssh === undefined ? [] : [secret("etc/ssh/authorized_keys", ssh.authorized_keys.join("\n") + "\n")]),
    ...Object.entries(config.exporters).map(([name, exporter]) => forAgent(name, exporterText(name, exporter))),
    ...exporters.map(({ name, text }) => forAgent(name, text)),
    ...Object.entries(tokens).map(([name, token]) => secret(`etc/jumpstarter/tokens/${name}`, token)),
    ...Object.entries(config.update_keys).map(([name, key]) => open(`etc/jumpstarter/update-keys/${name}.pem`, key)),
  ];
}

/** The name under which it stands is its own, unless it says another one. */
function exporterText(name: string, exporter: Readonly<Record<string, unknown>>): string {
  const metadata = exporter["metadata"] ?? {};
  return stringify({ ...exporter, metadata: { name, ...metadata } });
}

function hosts({ hosts }: HostConfig, hostname: string): string {
  const own = ["127.0.0.1 localhost", `127.0.1.1 ${hostname}`, "::1 localhost ip6-localhost ip6-loopback"];
  return [...own, ...Object.entries(hosts).map(([name, address]) => `${address} ${name}`), ""].join("\n");
}

const multicast = "MulticastDNS=yes";

function wiredNetwork({ interface: name, address, gateway, dns }: HostConfig["network"]["ethernet"]): string {
  const addresses =
    address === undefined
      ? ["DHCP=yes"]
      : [`Address=${address}`, ...(gateway === undefined ? [] : [`Gateway=${gateway}`])];
  return [
    ...["[Match]", `Name=${name ?? "en* eth*"}`, ...(name === undefined ? ["Type=ether"] : []), ""],
    ...["[Network]", ...addresses, ...dns.map((server) => `DNS=${server}`), multicast, ""],
    // A host that moves to another port of its switch stays the same to the server.
    ...["[DHCPv4]", "ClientIdentifier=mac", ""],
  ].join("\n");
}

function wifiFiles({
  ssid,
  password,
  country,
  interface: name,
}: NonNullable<HostConfig["network"]["wifi"]>): SystemFile[] {
  // Up to the last quotation mark of the line a password is taken as it is.
  const hex = Buffer.from(ssid).toString("hex");
  const key =
    password === undefined ? ["key_mgmt=NONE"] : [`psk="${password}"`, "key_mgmt=WPA-PSK SAE", "ieee80211w=1"];
  const lines = [`country=${country}`, "network={", ...[`ssid=${hex}`, ...key].map((text) => `  ${text}`), "}", ""];
  return [
    { path: `etc/wpa_supplicant/wpa_supplicant-${name}.conf`, content: lines.join("\n"), mode: 0o600 },
    {
      path: "etc/systemd/network/30-wireless.network",
      content: ["[Match]", `Name=${name}`, "", "[Network]", "DHCP=yes", multicast, ""].join("\n"),
      mode: 0o644,
    },
  ];
}
