import { newNamespace, type NetworkNamespace } from "../../sim/network-namespace.ts";
import type { Cleanup } from "./cleanup.ts";

/** veth: an Ethernet with an MTU of 1500; loss: one that loses 1 % of the packets each way. */
export type LinkKind = "loopback" | "veth" | "loss";

/** A network with one server and its clients, and nothing else. */
export interface Link {
  readonly server: NetworkNamespace;
  readonly clients: NetworkNamespace;
  /** The server's. */
  readonly address: string;
}

const loopbackAddress = "10.99.0.1";
const veth = { server: "10.78.0.1", clients: "10.78.0.2" };

export async function openLink(life: Cleanup, kind: LinkKind): Promise<Link> {
  if (kind === "loopback") {
    // Beside 127.0.0.1 alone, tftpd-hpa finds no IPv4.
    const network = await newNamespace(life, [`ip address add ${loopbackAddress}/32 dev lo`]);
    return { server: network, clients: network, address: loopbackAddress };
  }
  const server = await newNamespace(life);
  const clients = await newNamespace(life);
  await server.run("ip", ["link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", `${clients.pid}`]);
  for (const [end, address] of [[server, veth.server] as const, [clients, veth.clients] as const]) {
    await end.run("ip", ["address", "add", `${address}/24`, "dev", "veth0"]);
    await end.run("ip", ["link", "set", "veth0", "mtu", "1500", "up"]);
    // A network card without offloads: the kernel cuts what was sent in one go into packets before they are lost.
    await end.run("ethtool", ["-K", "veth0", "tx-udp-segmentation", "off"]);
    if (kind === "loss") await end.run("nft", [lossRules]);
  }
  return { server, clients, address: veth.server };
}

/** One packet in a hundred is dropped where it arrives, at either end. */
const lossRules = `table netdev loss {
  chain in { type filter hook ingress device "veth0" priority 0; numgen random mod 100 == 0 drop; }
}`;
