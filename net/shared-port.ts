import { AsyncLocalStorage } from "node:async_hooks";
import { AgentError, isSystemError, toAgentError } from "../agent/driver/errors.ts";
import { boundAddresses, hostPort, listenError } from "./addresses.ts";
import { commonBoard, viewOf, type View } from "./views.ts";

/** Something that listens on one address of this host. */
export interface Listener {
  readonly port: number;
  /** Frees the port before it returns. */
  close(): void;
}

/** Binds. @throws the system's error */
export type Listen = (address: string, port: number) => Promise<Listener>;

/** A view on its port, as long as it is served. */
export interface ServedView<V extends View> {
  readonly view: V;
  /** Runs work for this view as work of the exporter that serves it. */
  readonly run: <T>(work: () => T) => T;
}

interface Claim<V extends View> extends ServedView<V> {
  readonly hosts: readonly string[];
  readonly wildcard: boolean;
  /** Local addresses on which the view is reached now. */
  addresses: ReadonlySet<string>;
}

interface Bound {
  readonly opening: Promise<Listener>;
  listener: Listener | undefined;
}

/** How often a wildcard looks for addresses that came or went: a cable is plugged in, a link-local address settles. */
const rescanMs = 5_000;

/**
 * One port of this host on which several exporters serve their boards. Each local address has one listener, which
 * lives as long as a view is reached there; who sees which view is decided by {@link viewOf}.
 *
 * Made outside of any exporter's async context ({@link OpenContext.sharedOnHost} does), so that what a listener throws
 * is not taken for the failure of the exporter that came first.
 */
export class SharedPort<V extends View> {
  readonly #listen: Listen;
  readonly #claims = new Set<Claim<V>>();
  readonly #bound = new Map<string, Bound>();
  readonly #outside = AsyncLocalStorage.snapshot();
  #port: number;
  #rescan: NodeJS.Timeout | undefined;

  /** @param port 0 lets the system choose; all addresses then have the one that it chose first */
  constructor(port: number, listen: Listen) {
    this.#port = port;
    this.#listen = listen;
  }

  /** The port that is bound, or will be. */
  get port(): number {
    return this.#port;
  }

  /** Local addresses that are listened on now. */
  get addresses(): string[] {
    return [...this.#bound].flatMap(([address, { listener }]) => (listener === undefined ? [] : [address]));
  }

  /**
   * Shows a view on these addresses; resolves when every one is bound. A wildcard stands for every address that the
   * host has, and for those that it gets later.
   * @throws AgentError E_IO when an address cannot be bound, or another view claims the same boards; nothing changes then.
   */
  async serve(view: V, hosts: readonly string[]): Promise<{ stop(): void }> {
    const { addresses, wildcard } = await boundAddresses(hosts);
    const run = AsyncLocalStorage.snapshot() as ServedView<V>["run"];
    const claim: Claim<V> = { view, run, hosts, wildcard, addresses: new Set(addresses) };
    this.#refuseTwins(claim);
    this.#claims.add(claim);
    try {
      for (const address of addresses) await this.#bind(claim, address);
      if (claim.addresses.size === 0) {
        throw new AgentError("E_IO", `no address to listen on: ${hosts.join(", ")}`, {
          hint: "`ip address` shows what this host has; an interface that is down has none",
        });
      }
    } catch (error) {
      this.#leave(claim);
      throw error;
    }
    if (wildcard) {
      this.#rescan ??= this.#outside(() => setInterval(() => void this.#followAddresses(), rescanMs).unref());
    }
    return { stop: () => this.#leave(claim) };
  }

  /** What the board at `peer` sees of what is served at the local address that it asked. */
  find(local: string, peer: string): ServedView<V> | undefined {
    const candidates = [];
    for (const claim of this.#claims) {
      if (claim.addresses.has(local)) candidates.push({ claim, boards: claim.view.boards });
    }
    return viewOf(candidates, peer)?.claim;
  }

  #refuseTwins(claim: Claim<V>): void {
    for (const other of this.#claims) {
      const address = [...claim.addresses].find((one) => other.addresses.has(one));
      const board = address === undefined ? undefined : commonBoard(claim.view, other.view);
      if (address === undefined || board === undefined) continue;
      const where = hostPort(address, this.#port);
      throw new AgentError("E_IO", `port already in use: ${where} shows ${other.view.name} to ${board}`, {
        hint: "exporters share a port when each names its `boards` by address or MAC address",
      });
    }
  }

  async #bind(claim: Claim<V>, address: string): Promise<void> {
    let bound = this.#bound.get(address);
    if (bound === undefined) {
      bound = { opening: this.#outside(() => this.#listen(address, this.#port)), listener: undefined };
      this.#bound.set(address, bound);
    }
    try {
      bound.listener = await bound.opening;
      this.#port = bound.listener.port;
      // Everybody who wanted it may have gone meanwhile.
      this.#closeUnused();
    } catch (error) {
      if (this.#bound.get(address) === bound) this.#bound.delete(address);
      // An IPv6 address that is still being checked for duplicates cannot be bound yet.
      if (claim.wildcard && isSystemError(error) && error.code === "EADDRNOTAVAIL") {
        claim.addresses = new Set([...claim.addresses].filter((one) => one !== address));
        return;
      }
      throw listenError(error, address, this.#port);
    }
  }

  #leave(claim: Claim<V>): void {
    this.#claims.delete(claim);
    this.#closeUnused();
    if ([...this.#claims].some(({ wildcard }) => wildcard)) return;
    clearInterval(this.#rescan);
    this.#rescan = undefined;
  }

  #closeUnused(): void {
    for (const [address, { listener }] of this.#bound) {
      if (listener === undefined || [...this.#claims].some(({ addresses }) => addresses.has(address))) continue;
      this.#bound.delete(address);
      listener.close();
    }
  }

  async #followAddresses(): Promise<void> {
    for (const claim of this.#claims) {
      if (!claim.wildcard) continue;
      try {
        const { addresses } = await boundAddresses(claim.hosts);
        claim.addresses = new Set(addresses);
        for (const address of addresses) await this.#bind(claim, address);
      } catch (error) {
        claim.view.log.warn(toAgentError(error).message);
      }
    }
    this.#closeUnused();
  }
}
