import { DeviceOffline } from "../../agent/driver/errors.ts";
import { loadKoffi } from "../../agent/sys/native.ts";
import { natIsOff, type DutNetworkConfig } from "./config.ts";
import { findTool } from "./privilege.ts";

/** Who gives addresses. Our own server needs our own rights, as it is no process that sudo could start. */
export async function chooseDhcpServer(config: DutNetworkConfig, direct: boolean): Promise<"builtin" | "dnsmasq"> {
  if (config.dhcp_server !== undefined) return config.dhcp_server;
  if (!direct) return "dnsmasq";
  return loadKoffi().then(
    () => "builtin",
    () => "dnsmasq",
  );
}

/** @throws DeviceOffline that names every tool which is not installed */
export function assertTools(config: DutNetworkConfig, direct: boolean, dhcpServer: "builtin" | "dnsmasq"): void {
  if (process.platform !== "linux") {
    throw new DeviceOffline("DutNetwork driver requires Linux (network namespaces, nftables)");
  }
  const nat = !natIsOff(config);
  const wanted: readonly [tool: string, inWords: string, needed: boolean][] = [
    ["ip", "ip (iproute2)", true],
    ["nft", "nft (nftables)", nat || config.local_ntp],
    ["dnsmasq", "dnsmasq", config.dhcp_enabled && (dhcpServer === "dnsmasq" || config.dns_entries.length > 0)],
    ["sysctl", "sysctl", nat && !direct],
    ["tcpdump", "tcpdump", config.enable_tcpdump],
    ["sudo", "sudo (or the rights of root)", !direct],
  ];
  const missing = wanted.filter(([tool, , needed]) => needed && findTool(tool) === undefined);
  if (missing.length === 0) return;
  const hint = "Install them with: apt-get install -y iproute2 nftables dnsmasq-base";
  const names = missing.map(([, inWords]) => inWords).join(", ");
  throw new DeviceOffline(`DutNetwork driver requires the following tools: ${names}. ${hint}`, { hint });
}
