import { isIPv4 } from "node:net";

/** IPv4 addresses as numbers, so that they can be compared. */

/** A network: its first address and the length of its prefix. */
export interface Subnet {
  /** As configured; host bits may be set. */
  readonly text: string;
  readonly first: number;
  readonly last: number;
  readonly prefixLength: number;
}

export function toNumber(address: string): number {
  return address.split(".").reduce((value, byte) => value * 256 + Number(byte), 0);
}

export function toAddress(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
}

export function netmaskOf({ prefixLength }: Subnet): string {
  return toAddress(2 ** 32 - 2 ** (32 - prefixLength));
}

/** @returns undefined unless it is `a.b.c.d/length` or a single address */
export function parseSubnet(text: string): Subnet | undefined {
  const [, address = "", length = "32"] = /^([\d.]+)(?:\/(\d{1,2}))?$/.exec(text) ?? [];
  const prefixLength = Number(length);
  if (!isIPv4(address) || prefixLength > 32) return undefined;
  const size = 2 ** (32 - prefixLength);
  const first = Math.floor(toNumber(address) / size) * size;
  return { text, first, last: first + size - 1, prefixLength };
}

export function contains(subnet: Subnet, address: string): boolean {
  const value = toNumber(address);
  return isIPv4(address) && value >= subnet.first && value <= subnet.last;
}

/** False for the address of the network itself and its broadcast address, which no board may have. */
export function isHostOf(subnet: Subnet, address: string): boolean {
  if (!contains(subnet, address)) return false;
  const value = toNumber(address);
  return subnet.prefixLength >= 31 || (value !== subnet.first && value !== subnet.last);
}
