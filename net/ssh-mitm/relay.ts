/**
 * The channels of one client and one board, as a machine without sockets. Both sides speak the same protocol and number
 * channels for themselves, so what one says about a channel can be handed to the other as it is: data of either kind, windows,
 * ends, terminals, signals, exit codes. Nothing is buffered, as the board's window is the client's window. Read is only what
 * decides over rights and limits.
 */
import {
  channelRequest,
  connectionLost,
  disconnect,
  fillTerminalSize,
  globalRequest,
  messages,
  openFailure,
  openFailures,
  readChannelRequest,
  readGlobalRequest,
  readOpen,
  recipientOf,
  requestFailure,
  senderOfConfirmation,
  type TerminalSize,
} from "./protocol.ts";

export interface RelayOptions {
  /** Whether channels of other types than sessions may be opened, by either side. */
  readonly forwarding: boolean;
  /** How many channels may be open or being opened at once. */
  readonly maxChannels: number;
  /** For clients that ask for a terminal without knowing its size. */
  readonly terminal: TerminalSize;
  readonly toClient: (payload: Buffer) => void;
  readonly toDut: (payload: Buffer) => void;
}

type Side = "client" | "dut";

interface Channel {
  /** Each side's own number; the one that did not open the channel gives its when it confirms. */
  client: number | undefined;
  dut: number | undefined;
  /** It is a session in which nothing was asked to run yet. */
  unused: boolean;
  readonly closedBy: Set<Side>;
}

/** Global requests that open no way around the exporter. */
const harmless = new Set(["keepalive@openssh.com", "no-more-sessions@openssh.com"]);

/** Requests that make the board forward something to the client. */
const forwardingRequests = new Set(["auth-agent-req@openssh.com", "x11-req"]);

const starters = new Set(["shell", "exec", "subsystem"]);

/** A request that nobody knows is answered with a failure in its turn: a refusal of ours would overtake earlier answers. */
const refused = "refused@jumpstarter.dev";

/** What a client may say before its board is there. It gets no windows until then, so this is plenty. */
const maxWaiting = 256;
const maxWaitingBytes = 256 * 1024;

export class ChannelRelay {
  readonly #options: RelayOptions;
  readonly #byClient = new Map<number, Channel>();
  readonly #byDut = new Map<number, Channel>();
  /** Who waits for the board's answers to global requests, in their order. */
  readonly #asked: ("client" | "ours")[] = [];
  /** What the client said while the board is being connected; undefined from then on. */
  #waiting: Buffer[] | undefined = [];
  #waitingBytes = 0;
  /** A channel was opened at some time. */
  #used = false;
  /** Sessions in which nothing was asked to run yet. */
  #unused = 0;

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  /** True while the client has nothing running and does not say what it wants. */
  get idle(): boolean {
    return this.#unused > 0 || (!this.#used && !this.#options.forwarding);
  }

  /** @throws RangeError if the message is not well formed, or if there are too many of them */
  fromClient(payload: Buffer): void {
    if (this.#waiting !== undefined) {
      this.#waitingBytes += payload.length;
      if (this.#waiting.length >= maxWaiting || this.#waitingBytes > maxWaitingBytes) {
        throw new RangeError("the client says too much before the board is connected");
      }
      // The payload is a part of a buffer that is used again.
      this.#waiting.push(Buffer.from(payload));
      return;
    }
    const type = payload.readUInt8(0);
    if (type === messages.globalRequest) this.#globalFromClient(payload);
    else if (type === messages.channelOpen) this.#openFromClient(payload);
    else if (type >= messages.openConfirmation) this.#pass("client", type, payload);
    // What is left answers global requests, and the board's never reach the client.
  }

  /** @throws RangeError if the message is not well formed */
  fromDut(payload: Buffer): void {
    const type = payload.readUInt8(0);
    const { toClient, toDut } = this.#options;
    if (type === messages.globalRequest) {
      // Above all the board's host keys, which are not ours.
      if (readGlobalRequest(payload).wantsReply) toDut(requestFailure());
    } else if (type === messages.requestSuccess || type === messages.requestFailure) {
      if (this.#asked.shift() === "client") toClient(payload);
    } else if (type === messages.channelOpen) this.#openFromDut(payload);
    else this.#pass("dut", type, payload);
  }

  /** The board is there: it hears what the client said meanwhile. */
  connected(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    for (const payload of waiting) this.fromClient(payload);
  }

  /** The board cannot be reached, or is lost: whoever waits is told why, in the ways that clients show. */
  failed(text: string): void {
    const opening = [...this.#byClient.values()].flatMap(({ client, dut }) =>
      client !== undefined && dut === undefined ? [client] : [],
    );
    for (const payload of this.#waiting ?? []) {
      if (payload[0] === messages.channelOpen) opening.push(readOpen(payload).sender);
    }
    for (const sender of opening) this.#options.toClient(openFailure(sender, openFailures.connectFailed, text));
    this.#options.toClient(disconnect(connectionLost, text));
  }

  /** Asks the board whether it is still there; any answer is a sign of life. */
  ping(): void {
    this.#asked.push("ours");
    this.#options.toDut(globalRequest("keepalive@openssh.com", true));
  }

  #globalFromClient(payload: Buffer): void {
    const { type, wantsReply } = readGlobalRequest(payload);
    const allowed = this.#options.forwarding || harmless.has(type);
    if (wantsReply) this.#asked.push("client");
    if (allowed) this.#options.toDut(payload);
    else if (wantsReply) this.#options.toDut(globalRequest(refused, true));
  }

  #openFromClient(payload: Buffer): void {
    const { forwarding, maxChannels, toClient, toDut } = this.#options;
    const { type, sender } = readOpen(payload);
    const session = type === "session";
    if (this.#byClient.has(sender)) throw new RangeError(`channel ${sender} is opened twice`);
    if (!session && !forwarding) {
      toClient(openFailure(sender, openFailures.prohibited, "forwarding is not allowed by the exporter"));
    } else if (this.#byClient.size >= maxChannels) {
      toClient(openFailure(sender, openFailures.shortage, `no more than ${maxChannels} channels`));
    } else {
      this.#used = true;
      if (session) this.#unused += 1;
      const channel: Channel = { client: sender, dut: undefined, unused: session, closedBy: new Set() };
      this.#byClient.set(sender, channel);
      toDut(payload);
    }
  }

  #openFromDut(payload: Buffer): void {
    const { forwarding, maxChannels, toClient, toDut } = this.#options;
    const { type, sender } = readOpen(payload);
    if (this.#byDut.has(sender)) throw new RangeError(`channel ${sender} is opened twice`);
    if (!forwarding || type === "session") toDut(openFailure(sender, openFailures.prohibited, ""));
    else if (this.#byDut.size >= maxChannels) toDut(openFailure(sender, openFailures.shortage, ""));
    else {
      const channel: Channel = { client: undefined, dut: sender, unused: false, closedBy: new Set() };
      this.#byDut.set(sender, channel);
      toClient(payload);
    }
  }

  /** What one side says about a channel. About one that is not there, nothing is passed on: most clients end on it. */
  #pass(from: Side, type: number, payload: Buffer): void {
    const to = from === "client" ? "dut" : "client";
    const channel = (to === "dut" ? this.#byDut : this.#byClient).get(recipientOf(payload));
    if (channel === undefined || channel.closedBy.has(from)) return;
    const opened = channel[from] !== undefined;
    if (type === messages.openConfirmation) {
      if (opened) return;
      channel[from] = senderOfConfirmation(payload);
      (from === "dut" ? this.#byDut : this.#byClient).set(channel[from], channel);
    } else if (type === messages.openFailure) {
      if (opened) return;
      this.#forget(channel);
    } else if (!opened) return;
    else if (type === messages.close) {
      channel.closedBy.add(from);
      if (channel.closedBy.has(to)) this.#forget(channel);
    } else if (type === messages.channelRequest && from === "client") payload = this.#request(channel, payload);
    (to === "dut" ? this.#options.toDut : this.#options.toClient)(payload);
  }

  /** @returns what the board gets to see of it */
  #request(channel: Channel, payload: Buffer): Buffer {
    const request = readChannelRequest(payload);
    if (starters.has(request.type)) this.#use(channel);
    else if (request.type === "pty-req") fillTerminalSize(payload, request, this.#options.terminal);
    else if (forwardingRequests.has(request.type) && !this.#options.forwarding) {
      return channelRequest(recipientOf(payload), refused, request.wantsReply);
    }
    return payload;
  }

  #use(channel: Channel): void {
    if (channel.unused) this.#unused -= 1;
    channel.unused = false;
  }

  #forget(channel: Channel): void {
    this.#use(channel);
    const { client, dut } = channel;
    if (client !== undefined) this.#byClient.delete(client);
    if (dut !== undefined) this.#byDut.delete(dut);
  }
}
