import type { Address, DnsEntry } from "./config.ts";
import type { Lease } from "./interface.ts";

/** What boards can be told, and what clients may change meanwhile. */
export interface Names {
  readonly addresses: readonly Address[];
  readonly dnsEntries: readonly DnsEntry[];
}

/** Gives boards their addresses and tells them names: dnsmasq, or our own DHCP server. */
export interface AddressService {
  /** False once it has ended by itself. */
  readonly running: boolean;
  /** Done when it answers. */
  start(names: Names): Promise<void>;
  /** Takes over other names and addresses; leases in use stay. Nothing has changed if it throws before it told anyone. */
  update(names: Names): Promise<void>;
  leases(): Promise<Lease[]>;
  /** Ends it, and what an agent before us has left of it. Idempotent. */
  stop(): Promise<void>;
}
