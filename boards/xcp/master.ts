import { AgentError } from "../../agent/driver/errors.ts";
import { Turns } from "../power/turns.ts";
import {
  CommandPacket,
  errorCodes,
  parseConnect,
  parsePacket,
  ResponseReader,
  XcpRefusal,
  type CommandName,
  type SlaveProperties,
} from "./protocol.ts";
import type { OpenLink, XcpLink } from "./transport.ts";

/** T1 (table 236): as a rule, what a slave takes for an answer at most. */
const answerTimeoutMs = 2_000;
/** A slave that asks for more time for so long does not answer. */
const longestPendingMs = 600_000;
const notConnected = () => new AgentError("E_FAILED", "there is no XCP connection: call connect first");

interface Session {
  readonly link: XcpLink;
  readonly properties: SlaveProperties;
}

interface Waiter {
  readonly name: CommandName;
  settle(outcome: Uint8Array | AgentError): void;
  extend(): void;
}

/** What a command is run with; it belongs to one turn. */
export interface Turn {
  readonly slave: SlaveProperties;
  /** @throws XcpRefusal; AgentError E_TIMEOUT, E_CONNECTION; the signal's reason */
  ask(
    name: CommandName,
    fill?: (packet: CommandPacket) => CommandPacket,
    options?: AskOptions,
  ): Promise<ResponseReader>;
}

interface AskOptions {
  /** Default {@link answerTimeoutMs}. */
  readonly timeoutMs?: number;
}

/** One master and its slave: one command at a time, each answered before the next. */
export class XcpMaster {
  readonly #open: OpenLink;
  readonly #turns = new Turns();
  #session: Session | undefined;
  #link: XcpLink | undefined;
  /** Says which link is meant, as one that was closed may still have something to tell. */
  #current: object | undefined;
  #waiter: Waiter | undefined;
  /** Why there is no connection any more. */
  #lost: AgentError | undefined;
  /** An answer may still come that nobody waits for. */
  #isOutOfStep = false;

  constructor(open: OpenLink) {
    this.#open = open;
  }

  /** Connects, after closing what was there. */
  connect(mode: number, signal: AbortSignal): Promise<SlaveProperties> {
    return this.#turns.take(signal, async () => {
      this.close();
      const token = {};
      const host = {
        onPacket: (packet: Uint8Array) => this.#receive(packet),
        onLost: (reason: AgentError) => {
          if (this.#current === token) this.#drop(reason);
        },
      };
      const link = await this.#open(host, signal);
      this.#current = token;
      this.#link = link;
      try {
        const packet = new CommandPacket("CONNECT", "INTEL").bytes(mode);
        const properties = parseConnect(await this.#exchange(link, packet, answerTimeoutMs, signal));
        this.#isOutOfStep = false;
        this.#session = { link, properties };
        return properties;
      } catch (error) {
        this.close();
        throw error;
      }
    });
  }

  /** Runs commands without others between them. @throws AgentError E_FAILED without a connection; what they throw */
  run<T>(signal: AbortSignal, commands: (turn: Turn) => Promise<T>): Promise<T> {
    return this.#turns.take(signal, async () => {
      const session = this.#session;
      if (session === undefined) throw this.#lost ?? notConnected();
      await this.#synchronize(session.link, signal);
      const { link, properties } = session;
      const { byte_order: order } = properties;
      const slave = { ...properties, max_cto: Math.min(properties.max_cto, link.longestPacketBytes) };
      return commands({
        slave,
        ask: async (name, fill = (packet) => packet, { timeoutMs = answerTimeoutMs } = {}) => {
          const packet = fill(new CommandPacket(name, order));
          if (packet.packet.length > session.properties.max_cto) {
            throw new AgentError(
              "E_INVALID",
              `${name} does not fit into a packet of ${session.properties.max_cto} bytes`,
            );
          }
          return new ResponseReader(name, await this.#exchange(link, packet, timeoutMs, signal), order);
        },
      });
    });
  }

  get connected(): boolean {
    return this.#session !== undefined;
  }

  /** Idempotent. Sends nothing. */
  close(): void {
    const link = this.#link;
    this.#link = undefined;
    this.#current = undefined;
    this.#session = undefined;
    this.#lost = undefined;
    link?.close();
    this.#waiter?.settle(new AgentError("E_CONNECTION", "the XCP connection was closed"));
  }

  #drop(reason: AgentError): void {
    this.close();
    this.#lost = reason;
  }

  /** SYNCH is answered by an error of its own (7.5.1.4): what comes before that is old. */
  async #synchronize(link: XcpLink, signal: AbortSignal): Promise<void> {
    if (!this.#isOutOfStep) return;
    try {
      await this.#exchange(link, new CommandPacket("SYNCH", "INTEL"), answerTimeoutMs, signal);
    } catch (error) {
      if (!(error instanceof XcpRefusal)) throw error;
    }
    this.#isOutOfStep = false;
  }

  async #exchange(
    link: XcpLink,
    { name, packet }: CommandPacket,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<Uint8Array> {
    signal.throwIfAborted();
    let timer: NodeJS.Timeout | undefined;
    let onAbort = () => {};
    try {
      return await new Promise<Uint8Array>((resolve, reject) => {
        const giveUp = (error: Error) => {
          this.#isOutOfStep = true;
          reject(error);
        };
        const arm = (ms: number) => {
          clearTimeout(timer);
          const text = `the slave does not answer ${name} within ${ms / 1000} s`;
          timer = setTimeout(() => giveUp(new AgentError("E_TIMEOUT", text)), ms);
        };
        onAbort = () => giveUp(signal.reason as Error);
        signal.addEventListener("abort", onAbort, { once: true });
        const untilMs = performance.now() + longestPendingMs;
        this.#waiter = {
          name,
          settle: (outcome) => (outcome instanceof AgentError ? reject(outcome) : resolve(outcome)),
          extend: () => arm(Math.min(Math.max(timeoutMs, answerTimeoutMs), Math.max(0, untilMs - performance.now()))),
        };
        arm(timeoutMs);
        link.send(packet).catch(reject);
      });
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      this.#waiter = undefined;
    }
  }

  #receive(bytes: Uint8Array): void {
    const waiter = this.#waiter;
    if (waiter === undefined) return;
    const packet = parsePacket(bytes);
    if (packet.kind === "pending") waiter.extend();
    // Until the answer to SYNCH, everything is old.
    const isSynch = packet.kind === "error" && packet.code === errorCodes.synch;
    if (waiter.name === "SYNCH" && !isSynch) return;
    if (packet.kind === "error") waiter.settle(new XcpRefusal(waiter.name, packet.code));
    else if (packet.kind === "response") waiter.settle(Uint8Array.from(packet.data));
  }
}
