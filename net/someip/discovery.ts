import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { anyInstance, anyVersion, encodeDiscovery, entryTypes, type Endpoint, type SdEntry } from "./protocol.ts";
import type { SomeIpSockets } from "./transport.ts";

/** An instance of a service, as it was offered. */
export interface Offer {
  readonly serviceId: number;
  readonly instanceId: number;
  readonly majorVersion: number;
  readonly minorVersion: number;
  readonly endpoints: readonly Endpoint[];
  /** Where its discovery speaks from. */
  readonly discovery: Endpoint;
  readonly untilMs: number;
}

interface Subscription {
  readonly offer: Offer;
  readonly eventgroupId: number;
}

/** Search messages are repeated after this time, then after twice as long, and so on. */
const firstRepetitionMs = 100;
const longestRepetitionMs = 2_000;
/** After the first offer of a service, others of its instances may come. */
const furtherOffersMs = 50;
const acknowledgeTimeoutMs = 2_000;
const subscriptionSeconds = 10;
const renewalMs = 4_000;
/** "As long as the provider lives." */
const foreverSeconds = 0xff_ffff;
/** What a network full of nonsense may make us remember. */
const mostOffers = 4096;
const mostSubscriptions = 1024;

/** Finds services and subscribes to their events, as a client of SOME/IP service discovery. */
export class Discovery {
  readonly #sockets: SomeIpSockets;
  readonly #protocol: Endpoint["protocol"];
  readonly #log: Logger;
  readonly #offers = new Map<string, Offer>();
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #watchers = new Set<(entry: SdEntry) => void>();
  /** Session numbers: of what goes to all, and of what goes to one. */
  readonly #sessions = new Map<string, number>();
  readonly #renewal: NodeJS.Timeout;

  constructor(sockets: SomeIpSockets, protocol: Endpoint["protocol"], log: Logger) {
    this.#sockets = sockets;
    this.#protocol = protocol;
    this.#log = log;
    this.#renewal = setInterval(() => this.#renew(), renewalMs);
  }

  /** Heeds entries that came. */
  receive(entries: readonly SdEntry[], from: Endpoint): void {
    for (const entry of entries) {
      if (entry.type === entryTypes.offer) this.#heedOffer(entry, from);
      if (entry.type === entryTypes.subscribeAck) this.#heedAcknowledge(entry);
      for (const watcher of this.#watchers) watcher(entry);
    }
  }

  /** What is offered now. @param serviceId 0xFFFF: whatever it is */
  known(serviceId: number, instanceId = anyInstance): Offer[] {
    const nowMs = performance.now();
    return [...this.#offers.values()].filter(
      (offer) =>
        offer.untilMs > nowMs &&
        (serviceId === 0xffff || offer.serviceId === serviceId) &&
        (instanceId === anyInstance || offer.instanceId === instanceId),
    );
  }

  /** Asks until the service is offered. @returns nothing when the time is over. @throws the signal's reason */
  async find(serviceId: number, instanceId: number, timeoutMs: number, signal: AbortSignal): Promise<Offer[]> {
    const over = new AbortController();
    const giveUp = anySignal([signal, over.signal]);
    const offered = new Promise<void>((resolve) => {
      const watcher = () => {
        if (this.known(serviceId, instanceId).length > 0) resolve();
      };
      this.#watchers.add(watcher);
      over.signal.addEventListener("abort", () => this.#watchers.delete(watcher), { once: true });
      watcher();
    });
    const ask = async () => {
      for (let pauseMs = firstRepetitionMs; ; pauseMs = Math.min(pauseMs * 2, longestRepetitionMs)) {
        await this.#send([{ ...entry(entryTypes.find, { serviceId, instanceId }), ttl: 3 }]);
        await sleep(pauseMs, undefined, { signal: giveUp });
      }
    };
    try {
      await Promise.race([
        offered.then(() => sleep(Math.min(furtherOffersMs, timeoutMs), undefined, { signal: giveUp })),
        sleep(timeoutMs, undefined, { signal: giveUp }),
        ask(),
      ]);
    } finally {
      over.abort();
    }
    return this.known(serviceId, instanceId);
  }

  /** @throws AgentError E_FAILED if it is refused, E_TIMEOUT without an answer; the signal's reason */
  async subscribe(offer: Offer, eventgroupId: number, signal: AbortSignal): Promise<void> {
    const name = `service ${hex(offer.serviceId)}`;
    const subscription = { offer, eventgroupId };
    let unwatch = () => {};
    const answered = new Promise<SdEntry>((resolve) => {
      const watcher = (each: SdEntry) => {
        if (each.type === entryTypes.subscribeAck && keyOf(each) === keyOf({ ...offer, eventgroupId })) resolve(each);
      };
      this.#watchers.add(watcher);
      unwatch = () => this.#watchers.delete(watcher);
    });
    try {
      await this.#askFor(subscription, subscriptionSeconds, signal);
      const answer = await Promise.race([answered, sleep(acknowledgeTimeoutMs, undefined, { signal, ref: true })]);
      if (answer === undefined) {
        throw new AgentError(
          "E_TIMEOUT",
          `${name} does not answer the subscription of ${hex(eventgroupId)} within 2 s`,
        );
      }
      if (answer.ttl === 0) {
        throw new AgentError("E_FAILED", `${name} refuses the subscription of eventgroup ${hex(eventgroupId)}`);
      }
      if (this.#subscriptions.size >= mostSubscriptions) throw new AgentError("E_LIMIT", "too many subscriptions");
      this.#subscriptions.set(keyOf({ ...offer, eventgroupId }), subscription);
    } finally {
      unwatch();
    }
  }

  /** Takes back all subscriptions of this eventgroup, or of all. */
  async unsubscribe(eventgroupId: number | undefined, signal: AbortSignal): Promise<void> {
    for (const [key, subscription] of [...this.#subscriptions]) {
      if (eventgroupId !== undefined && subscription.eventgroupId !== eventgroupId) continue;
      this.#subscriptions.delete(key);
      await this.#askFor(subscription, 0, signal).catch((error: unknown) => {
        this.#log.warn(`a subscription was not taken back: ${toAgentError(error).message}`);
      });
    }
  }

  /** Idempotent. Sends nothing. */
  close(): void {
    clearInterval(this.#renewal);
    this.#watchers.clear();
  }

  #heedOffer(of: SdEntry, from: Endpoint): void {
    const key = keyOf(of);
    if (of.ttl === 0) return void this.#offers.delete(key);
    if (!this.#offers.has(key) && this.#offers.size >= mostOffers) return;
    const offer: Offer = {
      ...of,
      discovery: from,
      untilMs: of.ttl === foreverSeconds ? Infinity : performance.now() + of.ttl * 1000,
    };
    this.#offers.set(key, offer);
    // An offer to all asks its subscribers whether they still are.
    for (const [name, { offer: old, eventgroupId }] of this.#subscriptions) {
      if (keyOf(old) !== key) continue;
      const renewed = { offer, eventgroupId };
      this.#subscriptions.set(name, renewed);
      this.#renewOne(renewed);
    }
  }

  #heedAcknowledge({ multicast, ttl }: SdEntry): void {
    if (ttl === 0) return;
    for (const group of multicast) {
      this.#sockets.join(group).catch((error: unknown) => this.#log.warn(toAgentError(error).message));
    }
  }

  #renew(): void {
    for (const subscription of this.#subscriptions.values()) this.#renewOne(subscription);
  }

  #renewOne(subscription: Subscription): void {
    const signal = AbortSignal.timeout(renewalMs);
    this.#askFor(subscription, subscriptionSeconds, signal).catch((error: unknown) => {
      this.#log.debug(`a subscription was not renewed: ${toAgentError(error).message}`);
    });
  }

  async #askFor({ offer, eventgroupId }: Subscription, ttl: number, signal: AbortSignal): Promise<void> {
    const peer = endpointOf(offer, this.#protocol);
    const endpoints = [await this.#sockets.localEndpoint(peer, signal)];
    const wanted = { ...entry(entryTypes.subscribe, offer), eventgroupId, ttl, endpoints };
    await this.#send([{ ...wanted, majorVersion: offer.majorVersion }], offer.discovery);
  }

  async #send(entries: readonly SdEntry[], to?: Endpoint): Promise<void> {
    const peer = to?.address ?? "all";
    const count = (this.#sessions.get(peer) ?? 0) + 1;
    this.#sessions.set(peer, count);
    // 0 is no session number; when they begin anew, they say so.
    const sessionId = ((count - 1) % 0xffff) + 1;
    await this.#sockets.sendDiscovery(encodeDiscovery(entries, sessionId, count <= 0xffff), to);
  }
}

/** Where the instance is spoken with. @throws AgentError E_FAILED if it does not speak that protocol */
export function endpointOf({ serviceId, endpoints }: Offer, protocol: Endpoint["protocol"]): Endpoint {
  const found = endpoints.find((endpoint) => endpoint.protocol === protocol);
  if (found !== undefined) return found;
  throw new AgentError("E_FAILED", `service ${hex(serviceId)} is not offered over ${protocol.toUpperCase()}`);
}

function entry(type: number, { serviceId, instanceId }: { serviceId: number; instanceId: number }): SdEntry {
  return {
    type,
    serviceId,
    instanceId,
    majorVersion: anyVersion.major,
    minorVersion: anyVersion.minor,
    ttl: 0,
    eventgroupId: 0,
    endpoints: [],
    multicast: [],
  };
}

function keyOf(of: { serviceId: number; instanceId: number; eventgroupId?: number }): string {
  return `${of.serviceId}.${of.instanceId}.${of.eventgroupId ?? 0}`;
}

export function hex(id: number): string {
  return `0x${id.toString(16).padStart(4, "0")}`;
}
