import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { AgentError } from "../../agent/driver/errors.ts";

/** `host:port` for URLs: names are resolved where they can be (first answer, either family), IPv6 is bracketed. */
export async function formatAddress(host: string, port: number): Promise<string> {
  const address = await resolve(host);
  return isIP(address) === 6 ? `[${address}]:${port}` : `${address}:${port}`;
}

async function resolve(host: string): Promise<string> {
  if (isIP(host) !== 0) return host;
  try {
    return (await lookup(host, { verbatim: true })).address;
  } catch {
    return host; // The client may know a name server that we do not.
  }
}

/** @throws AgentError E_INVALID with the text that clients print. */
export function requireAddressEnabled(enabled: boolean): void {
  if (!enabled) {
    throw new AgentError("E_INVALID", "enable_address mode is not true in the exporter configuration");
  }
}

/** Hides user name and password of a URL; everything else stays as it was written. */
export function maskCredentials(url: string): string {
  return url.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/?#]*@/i, "$1***@");
}
