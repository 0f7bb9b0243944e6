import { readFileSync } from "node:fs";
import { isIPv6 } from "node:net";

/** Lower case, with colons: `aa:bb:cc:dd:ee:ff`. @returns undefined for what is no MAC address. */
export function parseMac(text: string): string | undefined {
  const digits =
    /^([0-9a-f]{2})[:-]?([0-9a-f]{2})[:-]?([0-9a-f]{2})[:-]?([0-9a-f]{2})[:-]?([0-9a-f]{2})[:-]?([0-9a-f]{2})$/i
      .exec(text.trim())
      ?.slice(1);
  return digits?.join(":").toLowerCase();
}

/**
 * The MAC address of a machine on one of this host's own networks: the kernel has learned it from the machine's ARP
 * request, which comes before its first packet. IPv6 addresses tell it themselves where they are made of it (EUI-64,
 * RFC 4291 appendix A), as those of firmware are.
 */
export function macOf(address: string): string | undefined {
  return isIPv6(address) ? macInAddress(address) : macInTable(readFileSync("/proc/net/arp", "latin1"), address);
}

/** `IP address, HW type, Flags, HW address, Mask, Device`, a heading before them. Flags 0 stands for no answer yet. */
export function macInTable(table: string, address: string): string | undefined {
  for (const line of table.split("\n").slice(1)) {
    const [ip, , flags, mac = ""] = line.split(/\s+/);
    if (ip === address && Number(flags) !== 0) return parseMac(mac);
  }
  return undefined;
}

function macInAddress(address: string): string | undefined {
  const groups = address.replace(/%.*$/, "").split(":").slice(-4);
  if (groups.length < 4 || groups.includes("")) return undefined;
  const bytes = groups.flatMap((group) => {
    const number = Number.parseInt(group, 16);
    return [number >> 8, number & 0xff];
  });
  if (bytes[3] !== 0xff || bytes[4] !== 0xfe) return undefined;
  // The universal/local bit is inverted.
  const mac = [(bytes[0] ?? 0) ^ 2, ...bytes.slice(1, 3), ...bytes.slice(5)];
  return mac.map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
