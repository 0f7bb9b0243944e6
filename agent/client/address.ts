import { isIPv6 } from "node:net";
import { AgentError } from "../driver/errors.ts";

export interface TcpAddress {
  readonly kind: "tcp";
  readonly host: string;
  readonly port: number;
}

/** Where a session is served. */
export type Address = { readonly kind: "unix"; readonly path: string } | TcpAddress;

/** Reads `JUMPSTARTER_HOST`: `host:port` (`[v6]:port`) if it ends in a port number, else the path of a unix socket. */
export function parseAddress(text: string): Address {
  const [, host, digits] = /^(.+):(\d+)$/.exec(text) ?? [];
  const port = Number(digits);
  if (host !== undefined && isPort(port)) {
    return { kind: "tcp", host: host.replace(/^\[(.*)\]$/, "$1"), port };
  }
  return { kind: "unix", path: text.replace(/^unix:(\/\/(?=\/))?/, "") };
}

/** Where controllers and routers are if nobody says a port. */
const defaultPort = 443;

/**
 * Reads the endpoint of a controller or router: `host[:port]`, where an IPv6 address with a port is in brackets, as
 * in gRPC also behind `dns:///`.
 * @throws AgentError E_INVALID
 */
export function parseEndpoint(text: string): TcpAddress {
  const bare = text.trim().replace(/^dns:(\/\/[^/]*\/)?/, "");
  const [, bracketed, name, digits] = /^(?:\[(.+)\]|([\w.-]+))(?::(\d{1,5}))?$/.exec(bare) ?? [];
  const host = [bracketed, bare].find((address) => isIPv6(address ?? "")) ?? name;
  const port = digits === undefined ? defaultPort : Number(digits);
  if (host === undefined || !isPort(port)) {
    throw new AgentError("E_INVALID", `'${text}' is no endpoint, which is host:port`);
  }
  return { kind: "tcp", host, port };
}

export function hostPort({ host, port }: { host: string; port: number }): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

function isPort(port: number): boolean {
  return port >= 1 && port <= 65_535;
}
