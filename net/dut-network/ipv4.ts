import { isIPv4 } from "node:net";
import { addressNumber, addressText } from "../dhcp/protocol.ts";

/** IPv4 addresses as numbers, so that they can be compared. */

/** A network: its first address and the length of its prefix. */
export interface Subnet {
  /** As configured; host bits may be set. */
  readonly text: string;
  readonly first: number;
  readonly last: number;
  readonly prefixLength: number;
}

export function netmaskOf({ prefixLength }: Subnet): string {
  return addressText(2 ** 32 - 2 ** (32 - prefixLength));
}

/** @returns undefined unless it is `a.b.c.d/length` or a single address */
export function parseSubnet(text: string): Subnet | undefined {
  const [, address = "", length = "32"] = /^([\d.]+)(?:\/(\d{1,2}))?$/.exec(text) ?? [];
  const prefixLength = Number(length);
  if (!isIPv4(address) || prefixLength > 32) return undefined;
  const size = 2 ** (32 - prefixLength);
  const first = Math.floor(addressNumber(address) / size) * size;
  return { text, first, last: first + size - 1, prefixLength };
}

export function contains(subnet: Subnet, address: string): boolean {
  const value = addressNumber(address);
  return isIPv4(address) && value >= subnet.first && value <= subnet.last;
}

/** False for the address of the network itself and its broadcast address, which no board may have. */
export function isHostOf(subnet: Subnet, address: string): boolean {
  if (!contains(subnet, address)) return false;
  const value = addressNumber(address);
  return subnet.prefixLength >= 31 || (value !== subnet.first && value !== subnet.last);
}
