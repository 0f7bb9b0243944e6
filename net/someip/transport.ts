import { createSocket, type Socket as DatagramSocket } from "node:dgram";
import { once } from "node:events";
import type { AddressInfo, Socket } from "node:net";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { dial } from "../../agent/stream/dial.ts";
import { MessageSplitter, splitDatagram, type Endpoint } from "./protocol.ts";

export interface SomeIpSettings {
  /** Our own IPv4 address. */
  readonly host: string;
  readonly port: number;
  readonly protocol: "udp" | "tcp";
  /** Service discovery. */
  readonly group: string;
  readonly groupPort: number;
}

type OnMessage = (message: Uint8Array, from: Endpoint) => void;

const connectTimeoutMs = 5_000;
/** What a connection may hold that its peer does not take. */
const mostUnsentBytes = 8 << 20;

/** The sockets of one SOME/IP client: datagrams, service discovery, and a connection for each peer in TCP mode. */
export class SomeIpSockets {
  readonly #settings: SomeIpSettings;
  readonly #onMessage: OnMessage;
  readonly #log: Logger;
  readonly #datagrams: DatagramSocket[] = [];
  readonly #connections = new Map<string, Promise<Socket>>();
  /** Groups of events that were joined. */
  readonly #joined = new Map<string, DatagramSocket>();
  #messages: DatagramSocket | undefined;
  #discovery!: DatagramSocket;
  #isClosed = false;

  /** @param onMessage gets whole messages; must not throw. @throws AgentError E_IO if an address or port cannot be had */
  static async open(settings: SomeIpSettings, onMessage: OnMessage, log: Logger): Promise<SomeIpSockets> {
    const sockets = new SomeIpSockets(settings, onMessage, log);
    try {
      await sockets.#listen();
      return sockets;
    } catch (error) {
      sockets.close();
      throw error;
    }
  }

  private constructor(settings: SomeIpSettings, onMessage: OnMessage, log: Logger) {
    this.#settings = settings;
    this.#onMessage = onMessage;
    this.#log = log;
  }

  async #listen(): Promise<void> {
    const { host, port, protocol, group, groupPort } = this.#settings;
    if (protocol === "udp") this.#messages = await this.#bind(host, port);
    this.#discovery =
      this.#messages !== undefined && port === groupPort ? this.#messages : await this.#bind(host, groupPort);
    this.#discovery.setMulticastInterface(host);
    this.#discovery.setMulticastLoopback(true);
    (await this.#bind(group, groupPort)).addMembership(group, host);
  }

  async #bind(address: string, port: number): Promise<DatagramSocket> {
    const socket = createSocket({ type: "udp4", reuseAddr: true });
    this.#datagrams.push(socket);
    socket.on("message", (datagram, from) => {
      const sender: Endpoint = { address: from.address, port: from.port, protocol: "udp" };
      for (const message of splitDatagram(datagram)) this.#onMessage(message, sender);
    });
    try {
      socket.bind(port, address);
      await once(socket, "listening");
    } catch (error) {
      const text = `SOME/IP cannot listen at ${address}:${port}: ${toAgentError(error).message}`;
      throw new AgentError("E_IO", text, { cause: error });
    }
    // What nobody waits for, like an answer that says that a port is closed.
    socket.on("error", (error) => this.#log.debug(`SOME/IP: ${error.message}`));
    return socket;
  }

  /** Sends to a peer, as the transport mode says. @throws AgentError E_CONNECTION, E_IO; the signal's reason */
  async send(message: Uint8Array, to: Endpoint, signal: AbortSignal): Promise<void> {
    if (to.protocol === "tcp") {
      const socket = await this.#connection(to, signal);
      if (socket.writableLength > mostUnsentBytes) {
        throw new AgentError("E_TIMEOUT", `${nameOf(to)} takes no more data`);
      }
      socket.write(message);
      return;
    }
    if (this.#messages === undefined) throw new AgentError("E_INVALID", `${nameOf(to)} speaks UDP, not TCP`);
    await sendDatagram(this.#messages, message, to);
  }

  /** Sends to all, or to one. */
  async sendDiscovery(message: Uint8Array, to?: Endpoint): Promise<void> {
    const { group, groupPort } = this.#settings;
    await sendDatagram(this.#discovery, message, to ?? { address: group, port: groupPort, protocol: "udp" });
  }

  /** Where we receive what a peer sends; in TCP mode the connection is made for it. */
  async localEndpoint(peer: Endpoint, signal: AbortSignal): Promise<Endpoint> {
    const { host } = this.#settings;
    if (peer.protocol === "tcp") {
      const { localPort = 0 } = await this.#connection(peer, signal);
      return { address: host, port: localPort, protocol: "tcp" };
    }
    if (this.#messages === undefined) throw new AgentError("E_INVALID", `${nameOf(peer)} speaks UDP, not TCP`);
    return { address: host, port: this.#messages.address().port, protocol: "udp" };
  }

  /** Receives what is sent to a group, too. */
  async join({ address, port }: Endpoint): Promise<void> {
    const name = `${address}:${port}`;
    if (this.#joined.has(name) || this.#joined.size >= 32) return;
    const socket = await this.#bind(address, port);
    this.#joined.set(name, socket);
    socket.addMembership(address, this.#settings.host);
  }

  #connection(to: Endpoint, signal: AbortSignal): Promise<Socket> {
    const name = nameOf(to);
    const known = this.#connections.get(name);
    if (known !== undefined) return known;
    const connecting = this.#connect(to, signal);
    this.#connections.set(name, connecting);
    const forget = () => {
      if (this.#connections.get(name) === connecting) this.#connections.delete(name);
    };
    connecting.then((socket) => socket.once("close", forget), forget);
    return connecting;
  }

  async #connect(to: Endpoint, signal: AbortSignal): Promise<Socket> {
    const name = nameOf(to);
    const target = { host: to.address, port: to.port, localAddress: this.#settings.host, noDelay: true };
    const socket = await dial(target, name, signal, connectTimeoutMs).catch((error: unknown) => {
      signal.throwIfAborted();
      const text = `SOME/IP service at ${name} cannot be reached: ${toAgentError(error).message}`;
      throw new AgentError("E_CONNECTION", text, { cause: error });
    });
    if (this.#isClosed) socket.destroy();
    const splitter = new MessageSplitter();
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const message of splitter.push(chunk)) this.#onMessage(message, to);
      } catch (error) {
        this.#log.warn(`connection to ${name} closed: ${toAgentError(error).message}`);
        socket.destroy();
      }
    });
    socket.on("end", () => socket.destroy());
    return socket;
  }

  /** Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const socket of this.#datagrams) socket.close();
    for (const connecting of this.#connections.values()) {
      connecting.then(
        (socket) => socket.destroy(),
        () => {},
      );
    }
  }
}

export function nameOf({ address, port }: Endpoint | AddressInfo): string {
  return `${address}:${port}`;
}

function sendDatagram(socket: DatagramSocket, message: Uint8Array, { address, port }: Endpoint): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.send(message, port, address, (error) => {
      if (error === null) return resolve();
      const text = `SOME/IP cannot send to ${address}:${port}: ${toAgentError(error).message}`;
      reject(new AgentError("E_IO", text, { cause: error }));
    });
  });
}
