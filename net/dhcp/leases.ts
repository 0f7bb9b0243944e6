import { open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import { isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { makeDirectoryDurably, syncDirectory, writeDurably } from "../../agent/stream/durable.ts";
import { addressNumber, addressText } from "./protocol.ts";

/** offered: held for a client that has not asked for it yet; released and expired: remembered for the same client. */
export type LeaseState = "offered" | "bound" | "released" | "expired";

export interface Lease {
  readonly address: string;
  readonly mac: string;
  readonly state: LeaseState;
  /** What the client called itself. */
  readonly hostName: string | undefined;
  /** By this host's clock; of a lease that ended, when that was. */
  readonly expires: Date;
}

export interface LeaseTableOptions {
  /** Addresses to give away, both inclusive. */
  readonly pool: { readonly first: string; readonly last: string };
  /** Addresses that nobody gets, as the server's own. */
  readonly excluded: readonly string[];
  readonly reservations: Reservations;
  readonly file: string | undefined;
  readonly log: Logger;
  readonly clock?: Clock;
}

/** By MAC. */
export type Reservations = Readonly<Record<string, { readonly address: string }>>;

export interface Clock {
  /** Milliseconds that only go forward; leases run by these. */
  monotonicMs(): number;
  /** Milliseconds since 1970, or since whenever a host without a clock has started; only the file has these. */
  wallMs(): number;
}

interface Entry {
  readonly address: number;
  readonly mac: string;
  state: "offered" | "bound" | "released";
  hostName: string | undefined;
  /** Monotonic. */
  expiresMs: number;
}

/** How long an offer waits for its request. */
const offerMs = 60_000;
/** How long an address rests that a client found taken (DHCPDECLINE). */
const quarantineMs = 3_600_000;
const mostHostNameChars = 64;
/** Before this no host's clock was set. */
const clockIsSetMs = Date.UTC(2024, 0, 1);
const mostFileBytes = 32 * 1024 ** 2;
const format = "jumpstarter-agent DHCP leases 1";

const record = z.object({
  format: z.literal(format),
  writtenMs: z.number(),
  leases: z.array(
    z.object({
      address: z.ipv4(),
      mac: z.string().max(64),
      state: z.enum(["bound", "released"]),
      hostName: z.string().max(mostHostNameChars).optional(),
      expiresMs: z.number(),
    }),
  ),
  declined: z.array(z.object({ address: z.ipv4(), untilMs: z.number() })),
});

const systemClock: Clock = { monotonicMs: () => performance.now(), wallMs: () => Date.now() };

/**
 * Who has which address. A client is its hardware address, not its client identifier (RFC 2131 section 2 would have the
 * latter): a board's PXE ROM, U-Boot and Linux each make up another identifier, and would take three addresses where
 * users look for one board.
 *
 * There is one entry per address at most, so that memory is bound by the pool.
 */
export class LeaseTable {
  readonly #options: LeaseTableOptions;
  readonly #clock: Clock;
  readonly #excluded: ReadonlySet<number>;
  readonly #first: number;
  readonly #last: number;
  readonly #byAddress = new Map<number, Entry>();
  readonly #byMac = new Map<string, Entry>();
  /** Address -> when it may be given away again (monotonic). */
  readonly #declined = new Map<number, number>();
  #reservations: Reservations = {};
  #reserved = new Map<number, string>();
  /** All below it were given away once. */
  #nextUnused: number;
  #writing: Promise<void> | undefined;
  #waiting: Promise<void> | undefined;
  #writeFails = false;

  private constructor(options: LeaseTableOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#excluded = new Set(options.excluded.map(addressNumber));
    this.#first = addressNumber(options.pool.first);
    this.#last = addressNumber(options.pool.last);
    this.#nextUnused = this.#first;
    this.reserve(options.reservations);
  }

  /** Reads the file, if there is one. A file that is not ours or is damaged is told, put aside, and no reason to fail. */
  static async open(options: LeaseTableOptions): Promise<LeaseTable> {
    const table = new LeaseTable(options);
    if (options.file !== undefined) await table.#load(options.file);
    return table;
  }

  /** Exchanges the reservations. Who has another address now keeps it until it asks again. */
  reserve(reservations: Reservations): void {
    this.#reservations = reservations;
    this.#reserved = new Map(Object.entries(reservations).map(([mac, { address }]) => [addressNumber(address), mac]));
  }

  /**
   * An address for this client, held for a minute: the one that is reserved for it, else the one it has or had, else the
   * one it wants, else a fresh one, else the one that nobody used for the longest time (RFC 2131 section 4.3.1).
   * @returns undefined when there is none left
   */
  offer(mac: string, wanted: string | undefined): string | undefined {
    const address = this.#choose(mac, wanted === undefined ? undefined : addressNumber(wanted));
    if (address === undefined) return undefined;
    const held = this.#byAddress.get(address);
    // A client that asks anew while its lease runs keeps the lease, whatever comes of the offer.
    if (held === undefined || held.mac !== mac || !this.#isBound(held)) {
      this.#put({ address, mac, state: "offered", hostName: held?.hostName, expiresMs: this.#now() + offerMs });
    }
    return addressText(address);
  }

  /** Whether this client may have this address now. */
  mayHave(mac: string, address: string): boolean {
    const number = addressNumber(address);
    const reserved = this.#reservations[mac];
    if (reserved !== undefined && this.#isUsable(mac, addressNumber(reserved.address))) {
      return reserved.address === address;
    }
    const own = this.#byMac.get(mac);
    if (own !== undefined && own.address !== number && this.#isUsable(mac, own.address)) return false;
    return this.#isUsable(mac, number);
  }

  /**
   * The client has the address from now on. Resolves when that would survive a power cut, as RFC 2131 section 4.3.2 wants it before
   * the client is told; if the disk refuses, that is told in the log and the lease holds all the same.
   */
  async bind(mac: string, address: string, seconds: number, hostName: string | undefined): Promise<void> {
    const known = this.#byMac.get(mac);
    this.#put({
      address: addressNumber(address),
      mac,
      state: "bound",
      hostName: hostName?.slice(0, mostHostNameChars) ?? known?.hostName,
      expiresMs: this.#now() + seconds * 1000,
    });
    await this.#save();
  }

  /** The client took another server's offer. */
  withdraw(mac: string): void {
    const entry = this.#byMac.get(mac);
    if (entry?.state === "offered") this.#remove(entry);
  }

  /** @returns whether the client had this address */
  async release(mac: string, address: string): Promise<boolean> {
    const entry = this.#byMac.get(mac);
    if (entry?.address !== addressNumber(address) || entry.state !== "bound") return false;
    this.#put({ ...entry, state: "released", expiresMs: Math.min(entry.expiresMs, this.#now()) });
    await this.#save();
    return true;
  }

  /**
   * The client found the address taken by someone: nobody gets it for an hour.
   * @returns whether it was this client's
   */
  async decline(mac: string, address: string): Promise<boolean> {
    const entry = this.#byMac.get(mac);
    if (entry?.address !== addressNumber(address)) return false;
    this.#remove(entry);
    this.#declined.set(entry.address, this.#now() + quarantineMs);
    await this.#save();
    return true;
  }

  /** All that are known, also those that ended, by address. */
  list(): Lease[] {
    return [...this.#byAddress.values()].sort((a, b) => a.address - b.address).map((entry) => this.#tell(entry));
  }

  /** Who has this address, or had it last. */
  at(address: string): Lease | undefined {
    const entry = this.#byAddress.get(addressNumber(address));
    return entry && this.#tell(entry);
  }

  /** Waits until all is written. */
  async close(): Promise<void> {
    for (let last = this.#waiting; last !== undefined; last = this.#waiting) await last;
    await this.#writing;
  }

  #choose(mac: string, wanted: number | undefined): number | undefined {
    const reserved = this.#reservations[mac];
    const candidates = [reserved && addressNumber(reserved.address), this.#byMac.get(mac)?.address, wanted];
    const found = candidates.find((address) => address !== undefined && this.#isUsable(mac, address));
    if (found !== undefined) return found;
    for (; this.#nextUnused <= this.#last; this.#nextUnused++) {
      if (!this.#byAddress.has(this.#nextUnused) && this.#isUsable(mac, this.#nextUnused)) return this.#nextUnused;
    }
    // All were given away once.
    let oldest: Entry | undefined;
    for (const entry of this.#byAddress.values()) {
      if (entry.expiresMs < (oldest?.expiresMs ?? Infinity) && this.#isUsable(mac, entry.address)) oldest = entry;
    }
    if (oldest !== undefined) return oldest.address;
    // What was declined, reserved for others, or withdrawn for a while.
    for (let address = this.#first; address <= this.#last; address++) {
      if (!this.#byAddress.has(address) && this.#isUsable(mac, address)) return address;
    }
    return undefined;
  }

  /** Nobody else has it or holds it, and it is one that we give away. */
  #isUsable(mac: string, address: number): boolean {
    if (!this.#isOurs(address) || (this.#reserved.get(address) ?? mac) !== mac) return false;
    const declinedUntil = this.#declined.get(address);
    if (declinedUntil !== undefined) {
      if (declinedUntil > this.#now()) return false;
      this.#declined.delete(address);
    }
    const held = this.#byAddress.get(address);
    return held === undefined || held.mac === mac || held.expiresMs <= this.#now();
  }

  /** In the pool, or outside of it and reserved. */
  #isOurs(address: number): boolean {
    const isInPool = address >= this.#first && address <= this.#last;
    return (isInPool || this.#reserved.has(address)) && !this.#excluded.has(address);
  }

  #isBound(entry: Entry): boolean {
    return entry.state === "bound" && entry.expiresMs > this.#now();
  }

  /** What the client or the address had before is forgotten. */
  #put(entry: Entry): void {
    const formers = [this.#byMac.get(entry.mac), this.#byAddress.get(entry.address)];
    for (const former of formers) if (former !== undefined) this.#remove(former);
    this.#byMac.set(entry.mac, entry);
    this.#byAddress.set(entry.address, entry);
  }

  #remove(entry: Entry): void {
    if (this.#byMac.get(entry.mac) === entry) this.#byMac.delete(entry.mac);
    if (this.#byAddress.get(entry.address) === entry) this.#byAddress.delete(entry.address);
  }

  #now(): number {
    return this.#clock.monotonicMs();
  }

  #tell({ address, mac, state, hostName, expiresMs }: Entry): Lease {
    const remainingMs = expiresMs - this.#now();
    return {
      address: addressText(address),
      mac,
      state: remainingMs <= 0 && state !== "released" ? "expired" : state,
      hostName,
      expires: new Date(this.#clock.wallMs() + remainingMs),
    };
  }

  /** Whoever asks while a write runs shares the next one: a rack that is switched on costs few writes. */
  #save(): Promise<void> {
    if (this.#options.file === undefined) return Promise.resolve();
    const { file } = this.#options;
    this.#waiting ??= (this.#writing ?? Promise.resolve()).then(() => {
      this.#waiting = undefined;
      const writing = this.#write(file).finally(() => {
        if (this.#writing === writing) this.#writing = undefined;
      });
      this.#writing = writing;
      return writing;
    });
    return this.#waiting;
  }

  async #write(file: string): Promise<void> {
    const wallMs = this.#clock.wallMs();
    const atWall = (monotonicMs: number) => Math.round(wallMs + monotonicMs - this.#now());
    const entries = [...this.#byAddress.values()].filter(({ state }) => state !== "offered");
    const content: z.input<typeof record> = {
      format,
      writtenMs: wallMs,
      leases: entries.map(({ address, mac, state, hostName, expiresMs }) => ({
        address: addressText(address),
        mac,
        state: state === "released" ? "released" : "bound",
        hostName,
        expiresMs: atWall(expiresMs),
      })),
      declined: [...this.#declined].map(([address, untilMs]) => ({
        address: addressText(address),
        untilMs: atWall(untilMs),
      })),
    };
    try {
      await writeDurably(file, `${JSON.stringify(content, undefined, 1)}\n`);
      this.#writeFails = false;
    } catch (error) {
      if (!this.#writeFails) this.#options.log.warn(`DHCP leases are not kept: ${toAgentError(error).message}`);
      this.#writeFails = true;
    }
  }

  async #load(file: string): Promise<void> {
    await prepareFolder(file);
    let text: string | undefined;
    try {
      text = await readBounded(file);
      if (text === undefined) return;
      this.#restore(record.parse(JSON.parse(text)));
    } catch (error) {
      const { log } = this.#options;
      const aside = `${file}.unreadable`;
      log.warn(`DHCP leases in ${file} cannot be read, it is kept as ${aside}: ${toAgentError(error).message}`);
      try {
        await rename(file, aside);
        await syncDirectory(dirname(file));
      } catch (failure) {
        log.warn(`${file} cannot be put aside: ${toAgentError(failure).message}`);
      }
    }
  }

  /**
   * How much time has gone since the file was written is known only when the clock was right both times. If it was not, leases have
   * as much left as they had then: an address that is kept too long is better than one that two boards have.
   */
  #restore({ writtenMs, leases, declined }: z.output<typeof record>): void {
    const wallMs = this.#clock.wallMs();
    const goneMs = writtenMs >= clockIsSetMs && wallMs >= writtenMs ? wallMs - writtenMs : 0;
    const fromWall = (thenMs: number) => this.#now() + thenMs - writtenMs - goneMs;
    for (const { address, mac, state, hostName, expiresMs } of leases) {
      const entry: Entry = { address: addressNumber(address), mac, state, hostName, expiresMs: fromWall(expiresMs) };
      // The pool may have changed since.
      if (this.#isOurs(entry.address)) this.#put(entry);
    }
    for (const { address, untilMs } of declined) this.#declined.set(addressNumber(address), fromWall(untilMs));
  }
}

/** @returns undefined when there is no such file */
async function readBounded(path: string): Promise<string | undefined> {
  try {
    const file = await open(path, "r");
    try {
      const { size } = await file.stat();
      if (size > mostFileBytes) throw new Error(`it has ${size} bytes`);
      return await file.readFile("utf8");
    } finally {
      await file.close();
    }
  } catch (error) {
    if (isSystemError(error) && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Makes the folder, and removes what a process that was killed while it wrote has left. */
async function prepareFolder(file: string): Promise<void> {
  const folder = dirname(file);
  try {
    await makeDirectoryDurably(folder);
    for (const name of await readdir(folder)) {
      const isHalf = name.startsWith(`${basename(file)}.`) && name.endsWith(".tmp");
      if (isHalf) await rm(join(folder, name), { force: true });
    }
  } catch {
    // Writing will tell what is wrong with it.
  }
}
