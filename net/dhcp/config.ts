import { isIPv4 } from "node:net";
import * as z from "zod";
import { architectures, type Architecture } from "./boot-choice.ts";
import { parseMac } from "../neighbours.ts";
import { addressNumber, addressText } from "./protocol.ts";

/** What a DHCP server is told by its owner: `DhcpServer.start` checks it, `jmp-agent boot` and dut-network fill it in. */

const ipv4 = z.string().refine(isIPv4, "must be an IPv4 address");

/** Any usual spelling of an Ethernet address; becomes lower case with colons. */
export const mac = z.string().transform((text, context) => {
  const parsed = parseMac(text);
  if (parsed !== undefined) return parsed;
  context.addIssue({ code: "custom", message: "must be a MAC address such as 02:00:00:00:00:01" });
  return z.NEVER;
});

const byMac = <T extends z.ZodType>(value: T) =>
  z.record(z.string(), value).transform((entries, context) => {
    const checked: Record<string, z.output<T>> = {};
    for (const [key, one] of Object.entries(entries)) {
      const name = mac.safeParse(key);
      if (name.success) checked[name.data] = one;
      else context.addIssue({ code: "custom", message: name.error.issues[0]?.message ?? "", path: [key] });
    }
    return checked;
  });

/** As long as DHCP can carry in one option. */
const name = z.string().min(1).max(255);
const bootFiles = z.strictObject({
  file: name.optional(),
  architectures: z.partialRecord(z.enum(Object.keys(architectures) as [Architecture]), name).optional(),
  ipxe: name.optional(),
  http: name.regex(/^https?:\/\//i, "must be an http:// or https:// URL").optional(),
  server: ipv4.optional(),
});
const bootRules = bootFiles.extend({ boards: byMac(bootFiles).optional() });

const reservation = z.strictObject({ address: ipv4, hostName: z.string().min(1).max(63).optional() });

/** The largest pool: each address of it may be remembered. */
const mostPoolAddresses = 65_536;

export const dhcpConfig = z.strictObject({
  /**
   * server: gives addresses and is the only one in its network; proxy: gives PXE and UEFI HTTP Boot clients their boot
   * file and leaves addresses to another DHCP server.
   */
  mode: z.enum(["server", "proxy"]).default("server"),
  /** Name of the network interface. */
  interface: z.string().min(1).max(15),
  /** Our own address there; else the first one it has. */
  address: ipv4.optional(),
  /** Of the subnet; else the interface's. */
  netmask: ipv4
    .refine((mask) => /^1*0*$/.test(addressNumber(mask).toString(2).padStart(32, "0")), "must be a netmask")
    .optional(),
  /** Addresses to give away, both inclusive; else all of the subnet but our own, at most 1024. */
  pool: z
    .strictObject({ first: ipv4, last: ipv4 })
    .refine(({ first, last }) => {
      const count = addressNumber(last) - addressNumber(first) + 1;
      return count > 0 && count <= mostPoolAddresses;
    }, `the last address must come after the first, and at most ${mostPoolAddresses} lie between`)
    .optional(),
  leaseSeconds: z.int().min(10).max(0xffff_fffe).default(3600),
  /** Default router; undefined: none is told, as in a network that leads nowhere. */
  router: ipv4.optional(),
  dns: z.array(ipv4).max(8).default([]),
  domain: z.string().min(1).max(255).optional(),
  ntp: z.array(ipv4).max(8).default([]),
  /** Where leases are kept over a restart; undefined: nowhere. */
  leaseFile: z.string().min(1).optional(),
  /** Boards with an address of their own, by MAC. It may lie outside the pool, not outside the subnet. */
  reservations: byMac(reservation).default({}),
  /** What boards boot; see boot-choice.ts. */
  boot: bootRules.default({}),
  /** Answer only boards that `reservations` or `boot.boards` name. */
  onlyKnown: z.boolean().default(false),
  /** MAC addresses that are never answered. */
  ignore: z.array(mac).default([]),
});

export type DhcpConfigInput = z.input<typeof dhcpConfig>;
export type DhcpConfig = z.output<typeof dhcpConfig>;
/** What may change while the server runs. */
export type DhcpChanges = Partial<Pick<DhcpConfigInput, "reservations" | "boot" | "onlyKnown" | "ignore">>;

/** An IPv4 subnet with our own address in it. */
export interface Subnet {
  readonly address: string;
  readonly netmask: string;
}

export function isInSubnet({ address, netmask }: Subnet, other: string): boolean {
  const size = subnetSize(netmask);
  return Math.floor(addressNumber(address) / size) === Math.floor(addressNumber(other) / size);
}

export function broadcastOf({ address, netmask }: Subnet): string {
  const size = subnetSize(netmask);
  return addressText(Math.floor(addressNumber(address) / size) * size + size - 1);
}

const defaultPoolAddresses = 1024;

/** The addresses of a subnet that hosts may have; at most so many that a pool is no burden. */
export function hostsOf(subnet: Subnet): { first: string; last: string } {
  const last = addressNumber(broadcastOf(subnet)) - 1;
  const first = addressNumber(broadcastOf(subnet)) - subnetSize(subnet.netmask) + 2;
  return { first: addressText(first), last: addressText(Math.min(last, first + defaultPoolAddresses - 1)) };
}

function subnetSize(netmask: string): number {
  return 2 ** 32 - addressNumber(netmask);
}
