import * as z from "zod";
import { defineInterface, streaming, unary } from "../../agent/driver/interface.ts";

const lease = z.object({
  mac: z.string(),
  ip: z.string(),
  hostname: z.string(),
  /** Seconds since 1970; 0 never ends, or has not been asked for yet (a configured address). */
  expiry: z.number(),
});

const dnsEntry = z.object({ hostname: z.string(), ip: z.string() });

const status = z.object({
  interface_status: z.object({ name: z.string(), exists: z.boolean(), addresses: z.array(z.string()) }),
  interface: z.string(),
  upstream: z.string().nullable(),
  subnet: z.string(),
  nat_mode: z.string(),
  dhcp_enabled: z.boolean(),
  leases: z.array(lease),
  dns_entries: z.array(dnsEntry),
  nat_rules: z.string(),
});

export type Lease = z.output<typeof lease>;

/** An Ethernet of its own for boards, with addresses, names, time and a guarded way out. */
export const dutNetwork = defineInterface({
  driverType: "network",
  client: "jumpstarter_driver_dut_network.client.DutNetworkClient",
  methods: {
    status: unary({ args: [], result: status, help: "Interface, leases, names and NAT rules" }),
    ntp_status: unary({
      args: [],
      result: z.object({ enabled: z.boolean(), running: z.boolean() }),
      help: "Whether boards get the time from here",
    }),
    get_dut_ip: unary({ args: [z.string()], result: z.string().nullable(), help: "The address of a MAC" }),
    get_leases: unary({ args: [], result: z.array(lease), help: "Leases, and configured addresses by MAC" }),
    add_address: unary({
      // ip, mac, hostname, public_ip
      args: [z.string(), z.string().nullish(), z.string().nullish(), z.string().nullish()],
      result: z.null(),
      help: "Give a board an address; one with this ip or mac is replaced",
    }),
    remove_address: unary({ args: [z.string()], result: z.null(), help: "Forget an address" }),
    get_nat_rules: unary({ args: [], result: z.string(), help: "The nftables rules in force" }),
    get_dns_entries: unary({ args: [], result: z.array(dnsEntry), help: "Names that boards can resolve" }),
    add_dns_entry: unary({ args: [z.string(), z.string()], result: z.null(), help: "Add or replace a name" }),
    remove_dns_entry: unary({ args: [z.string()], result: z.null(), help: "Forget a name" }),
    tcpdump: streaming({
      args: [z.array(z.string()).nullish()],
      item: z.string(),
      help: "What goes over the boards' interface, line by line; options that touch files or commands are refused",
    }),
  },
});
