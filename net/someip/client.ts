import { performance } from "node:perf_hooks";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { Inbox } from "../../agent/stream/inbox.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { Discovery, endpointOf, hex, type Offer } from "./discovery.ts";
import {
  decodeDiscovery,
  decodeMessage,
  discovery,
  encodeMessage,
  messageTypes,
  type Endpoint,
  type SomeIpMessage,
} from "./protocol.ts";
import { nameOf, SomeIpSockets, type SomeIpSettings } from "./transport.ts";

export interface ClientSettings extends SomeIpSettings {
  /** The only peer, known without service discovery. */
  readonly remote: Endpoint | undefined;
}

/** Of messages that nobody waits for: so many are kept. */
const inboxLimits = { messages: 4096, bytes: 16 << 20 };
const clientId = 1;
const protocolVersion = 1;
const defaultInterfaceVersion = 1;
/** How long services are looked for that a subscription may mean. */
const lookAroundMs = 2_000;

/** A SOME/IP client from its start to its end. */
export class SomeIpClient {
  readonly #settings: ClientSettings;
  readonly #log: Logger;
  readonly #messages = new Inbox(inboxLimits);
  readonly #events = new Inbox(inboxLimits);
  /** By session id. */
  readonly #calls = new Map<number, (answer: SomeIpMessage, from: Endpoint) => boolean>();
  /** Services that were found or called: those that a subscription means. */
  readonly #used = new Set<number>();
  readonly #ended = new AbortController();
  #sockets!: SomeIpSockets;
  #discovery!: Discovery;
  #session = 0;

  /** @throws AgentError E_IO if its addresses cannot be had */
  static async start(settings: ClientSettings, log: Logger): Promise<SomeIpClient> {
    const client = new SomeIpClient(settings, log);
    client.#sockets = await SomeIpSockets.open(settings, (message, from) => client.#receive(message, from), log);
    client.#discovery = new Discovery(client.#sockets, settings.protocol, log);
    return client;
  }

  private constructor(settings: ClientSettings, log: Logger) {
    this.#settings = settings;
    this.#log = log;
  }

  /** @throws AgentError E_TIMEOUT without an answer, or a service; what the transport throws; the signal's reason */
  async call(
    serviceId: number,
    methodId: number,
    payload: Uint8Array,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<SomeIpMessage> {
    const seconds = timeoutMs / 1000;
    const deadlineMs = performance.now() + timeoutMs;
    const { to, interfaceVersion } = await this.#destination(serviceId, timeoutMs, signal);
    const sessionId = this.#nextSession();
    const request = { ...header(serviceId, methodId, payload), clientId, sessionId, interfaceVersion };
    const end = anySignal([signal, this.#ended.signal]);
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<SomeIpMessage>((resolve, reject) => {
        end.throwIfAborted();
        end.addEventListener("abort", () => reject(end.reason as Error), { once: true });
        const text = `no response from service ${hex(serviceId)}, method ${hex(methodId)} within ${seconds} s`;
        timer = setTimeout(() => reject(new AgentError("E_TIMEOUT", text)), deadlineMs - performance.now());
        this.#calls.set(sessionId, (answer, from) => {
          if (answer.serviceId !== serviceId || answer.methodId !== methodId || nameOf(from) !== nameOf(to))
            return false;
          resolve(answer);
          return true;
        });
        this.#sockets.send(encodeMessage(request), to, end).catch(reject);
      });
    } finally {
      clearTimeout(timer);
      this.#calls.delete(sessionId);
    }
  }

  /** Sends a request for which nobody waits. */
  async send(serviceId: number, methodId: number, payload: Uint8Array, signal: AbortSignal): Promise<void> {
    const { to, interfaceVersion } = await this.#destination(serviceId, lookAroundMs, signal);
    const message = { ...header(serviceId, methodId, payload), clientId: 0, sessionId: 0, interfaceVersion };
    await this.#sockets.send(encodeMessage(message), to, signal);
  }

  /** What came and was no answer to a call. @returns undefined when the time is over */
  receiveMessage(timeoutMs: number, signal: AbortSignal): Promise<SomeIpMessage | undefined> {
    return this.#take(this.#messages, timeoutMs, signal);
  }

  receiveEvent(timeoutMs: number, signal: AbortSignal): Promise<SomeIpMessage | undefined> {
    return this.#take(this.#events, timeoutMs, signal);
  }

  async find(serviceId: number, instanceId: number, timeoutMs: number, signal: AbortSignal): Promise<Offer[]> {
    const offers = await this.#discovery.find(serviceId, instanceId, timeoutMs, this.#until(signal));
    for (const offer of offers) this.#used.add(offer.serviceId);
    return offers;
  }

  /** Of the services that were found or called; without any, of all that are offered. */
  async subscribe(eventgroupId: number, signal: AbortSignal): Promise<void> {
    const offers = await this.#subscribable(this.#until(signal));
    const outcomes = await Promise.allSettled(
      offers.map((offer) => this.#discovery.subscribe(offer, eventgroupId, this.#until(signal))),
    );
    const failed = outcomes.find((outcome) => outcome.status === "rejected");
    if (failed !== undefined && outcomes.every(({ status }) => status === "rejected")) throw failed.reason;
  }

  unsubscribe(eventgroupId: number, signal: AbortSignal): Promise<void> {
    return this.#discovery.unsubscribe(eventgroupId, signal);
  }

  /** Takes back its subscriptions, and whoever waits gets the reason. Idempotent. */
  async close(reason: AgentError): Promise<void> {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort(reason);
    await this.#discovery.unsubscribe(undefined, AbortSignal.timeout(1_000));
    this.#discovery.close();
    this.#sockets.close();
  }

  async #subscribable(signal: AbortSignal): Promise<Offer[]> {
    const used = [...this.#used].flatMap((serviceId) => this.#discovery.known(serviceId));
    if (used.length > 0) return used;
    const around = await this.#discovery.find(0xffff, 0xffff, lookAroundMs, signal);
    if (around.length > 0) return around;
    if (this.#settings.remote === undefined) {
      throw new AgentError("E_TIMEOUT", "no service is offered that could be subscribed to");
    }
    this.#log.info("the remote host offers no service; its events are received without a subscription");
    return [];
  }

  async #destination(serviceId: number, timeoutMs: number, signal: AbortSignal) {
    const { remote, protocol } = this.#settings;
    this.#used.add(serviceId);
    let [offer] = this.#discovery.known(serviceId);
    if (remote !== undefined) {
      return { to: remote, interfaceVersion: offer?.majorVersion ?? defaultInterfaceVersion };
    }
    offer ??= (await this.#discovery.find(serviceId, 0xffff, timeoutMs, this.#until(signal)))[0];
    if (offer === undefined) {
      throw new AgentError("E_TIMEOUT", `service ${hex(serviceId)} is not offered`, {
        hint: "set remote_host for an ECU without service discovery",
      });
    }
    return { to: endpointOf(offer, protocol), interfaceVersion: offer.majorVersion };
  }

  async #take(inbox: Inbox, timeoutMs: number, signal: AbortSignal): Promise<SomeIpMessage | undefined> {
    const bytes = await inbox.wait({ timeoutMs, signal: this.#until(signal) });
    return bytes === undefined ? undefined : decodeMessage(bytes);
  }

  #until(signal: AbortSignal): AbortSignal {
    return anySignal([signal, this.#ended.signal]);
  }

  #nextSession(): number {
    this.#session = (this.#session % 0xffff) + 1;
    return this.#session;
  }

  #receive(bytes: Uint8Array, from: Endpoint): void {
    const message = decodeMessage(bytes);
    if (message === undefined) return;
    const { serviceId, methodId, messageType } = message;
    if (serviceId === discovery.serviceId) {
      if (methodId !== discovery.methodId) return; // a magic cookie
      const entries = decodeDiscovery(message.payload);
      if (entries === undefined) this.#log.debug(`ignored a malformed service discovery of ${nameOf(from)}`);
      else this.#discovery.receive(entries, from);
      return;
    }
    const isAnswer = messageType === messageTypes.response || messageType === messageTypes.error;
    if (isAnswer && message.clientId === clientId) {
      // An answer that comes too late is nobody's.
      this.#calls.get(message.sessionId)?.(message, from);
      return;
    }
    const inbox = messageType === messageTypes.notification ? this.#events : this.#messages;
    if (!inbox.hasRoom(bytes.length)) {
      inbox.take();
      this.#log.debug("too many SOME/IP messages wait to be fetched; the oldest was thrown away");
    }
    inbox.put(Uint8Array.from(bytes));
  }
}

function header(serviceId: number, methodId: number, payload: Uint8Array) {
  return { serviceId, methodId, payload, protocolVersion, messageType: messageTypes.request, returnCode: 0 };
}
