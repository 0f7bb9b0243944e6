import { lookup } from "node:dns/promises";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { isIP, isIPv6 } from "node:net";
import { hostname, networkInterfaces } from "node:os";
import { AgentError, isSystemError, toAgentError } from "../agent/driver/errors.ts";

/** `host:port`, with brackets around an IPv6 address. */
export function hostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

/** True for what stands for addresses that come and go: `0.0.0.0`, `::`, and `%IF` for those of one interface. */
export function isWildcard(host: string): boolean {
  return host === "0.0.0.0" || host === "::" || host.startsWith("%");
}

/**
 * Numeric addresses for `hosts`, each once: names are resolved, and a wildcard becomes every address that the host has
 * now (`0.0.0.0` the IPv4 ones, `::` all, `%IF` all of that interface).
 */
export async function boundAddresses(hosts: readonly string[]): Promise<{ addresses: string[]; wildcard: boolean }> {
  const addresses = new Set<string>();
  for (const host of hosts) {
    if (isWildcard(host)) for (const address of localAddresses(host)) addresses.add(address);
    else addresses.add(isIP(host.replace(/%.*$/, "")) > 0 ? host : (await lookup(host)).address);
  }
  return { addresses: [...addresses], wildcard: hosts.some(isWildcard) };
}

function localAddresses(wildcard: string): string[] {
  const device = wildcard.startsWith("%") ? wildcard.slice(1) : undefined;
  const found: string[] = [];
  for (const [name, entries] of Object.entries(networkInterfaces())) {
    if (device !== undefined && name !== device) continue;
    for (const { address, family, scopeid } of entries ?? []) {
      if (family === "IPv4") found.push(address);
      else if (wildcard !== "0.0.0.0") found.push(scopeid ? `${address}%${name}` : address);
    }
  }
  return found;
}

/** Any address far away: nothing is sent, the routing table answers. AS112, as the Python exporter asks. */
const farAway = { address: "192.175.48.1", port: 53 };
const lookupLimitMs = 1_000;

/**
 * The address under which boards reach this host: what its name resolves to, unless that is a loopback address; else
 * the one it would reach the world from.
 * @returns undefined where there is neither.
 */
export async function ownAddress(): Promise<string | undefined> {
  const named = await Promise.race([
    lookup(hostname(), { family: 4 }).catch(() => undefined),
    new Promise<undefined>((resolve) => void setTimeout(() => resolve(undefined), lookupLimitMs).unref()),
  ]);
  if (named !== undefined && !named.address.startsWith("127.")) return named.address;
  const socket = createSocket("udp4");
  try {
    const connected = once(socket, "connect");
    socket.connect(farAway.port, farAway.address);
    await connected;
    return socket.address().address;
  } catch {
    return undefined;
  } finally {
    socket.close();
  }
}

/** Why a server cannot listen, in words; clients match `port already in use`. */
export function listenError(error: unknown, host: string, port: number): AgentError {
  const where = hostPort(host, port);
  switch (isSystemError(error) ? error.code : "") {
    case "EADDRINUSE":
      return new AgentError("E_IO", `port already in use: ${where}`, {
        cause: error,
        hint: "another server listens there; stop it or configure another port",
      });
    case "EACCES":
      return new AgentError("E_IO", `permission denied for ${where}`, {
        cause: error,
        hint: "ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)",
      });
    case "EADDRNOTAVAIL":
      return new AgentError("E_IO", `${host} is not an address of this host`, {
        cause: error,
        hint: "is the interface up? config.host must be one of `ip address`",
      });
    default: {
      const { message } = toAgentError(error);
      return new AgentError("E_IO", `cannot listen on ${where}: ${message}`, { cause: error });
    }
  }
}
