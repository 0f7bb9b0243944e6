import { once } from "node:events";
import type { Duplex } from "node:stream";
import { connect as connectTls, createSecureContext } from "node:tls";
import { isIP } from "node:net";
import WebSocket, { createWebSocketStream } from "ws";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { dial } from "../../agent/stream/dial.ts";
import { trustedCertificates } from "../../agent/sys/trusted-certificates.ts";
import * as mqtt from "./protocol.ts";
import type { Login, Message, Packet } from "./protocol.ts";

export interface Broker {
  readonly host: string;
  readonly port: number;
  readonly transport: "tcp" | "websockets" | "unix";
  /** Not for `unix`. */
  readonly tls: boolean;
  /** File with further authorities, PEM. */
  readonly ca: string | undefined;
  readonly login: Login;
}

/** A visit to a broker, from CONNECT to DISCONNECT. */
export interface Visit {
  /** @returns the topics that the broker does not let us listen to */
  subscribe(topics: readonly string[]): Promise<string[]>;
  /** Resolves when the broker has taken the message. */
  publish(topic: string, payload: string): Promise<void>;
  /** Resolves when all is done that was asked of the broker before. @returns the messages that came until then */
  settle(): Promise<Message[]>;
  /** The next message, in order. */
  next(): Promise<Message>;
  close(): void;
}

/** How errors call it. */
export const brokerName = ({ host, port, transport }: Broker): string =>
  `MQTT broker at ${transport === "unix" ? host : `${host}:${port}`}`;

/**
 * Visits a broker. Whoever aborts the signal ends the visit, and everything that waits in it fails with its reason.
 * @throws AgentError E_CONNECTION, E_TIMEOUT; the signal's reason
 */
export async function visit(broker: Broker, signal: AbortSignal): Promise<Visit> {
  const name = brokerName(broker);
  const failure = (error: Error) => {
    if (signal.aborted) return signal.reason as Error;
    if (error instanceof AgentError && error.message.includes(name)) return error;
    const noTls = /^(EPROTO$|ERR_SSL_)/.test((error as { code?: string }).code ?? "");
    const message = noTls ? `${error.message} (does it speak TLS at this port?)` : toAgentError(error).message;
    return new AgentError("E_CONNECTION", `${name}: ${message}`, { cause: error });
  };
  try {
    const stream = await open(broker, signal);
    const conversation = converse(stream, name, failure);
    const cancel = () => stream.destroy(signal.reason as Error);
    signal.addEventListener("abort", cancel, { once: true });
    stream.once("close", () => signal.removeEventListener("abort", cancel));
    try {
      stream.write(mqtt.connect(broker.login));
      const { code } = await conversation.wait("connack");
      if (code !== 0) throw new AgentError("E_CONNECTION", `${name} refuses us: ${mqtt.refusal(code)}`);
    } catch (error) {
      stream.destroy();
      throw error;
    }
    return conversation.visit;
  } catch (error) {
    throw failure(error as Error);
  }
}

async function open({ host, port, transport, tls, ca }: Broker, signal: AbortSignal): Promise<Duplex> {
  const where = `${host}:${port}`;
  if (transport === "unix") return dial({ path: host }, host, signal);
  const trusted = tls ? { ca: trustedCertificates(ca) } : {};
  if (transport === "websockets") {
    // Its path is that of Python's client.
    const url = `${tls ? "wss" : "ws"}://${isIP(host) === 6 ? `[${host}]` : host}:${port}/mqtt`;
    const socket = new WebSocket(url, ["mqtt"], { ...trusted, perMessageDeflate: false });
    return await opened(createWebSocketStream(socket), socket, "open", signal);
  }
  const socket = (await dial({ host, port }, where, signal)).setNoDelay();
  if (!tls) return socket;
  const servername = isIP(host) === 0 ? { servername: host } : {};
  const secure = connectTls({ socket, host, ...servername, secureContext: createSecureContext(trusted) });
  return await opened(secure, secure, "secureConnect", signal);
}

/** Waits until a stream is open. */
async function opened(stream: Duplex, from: NodeJS.EventEmitter, event: string, signal: AbortSignal): Promise<Duplex> {
  const cancel = () => stream.destroy(signal.reason as Error);
  signal.addEventListener("abort", cancel, { once: true });
  stream.on("error", () => {}); // it stays in `errored`
  try {
    if (signal.aborted) cancel();
    const failed = once(stream, "close").then(() => {
      throw stream.errored ?? new Error("closed before it was open");
    });
    await Promise.race([once(from, event), failed]);
    failed.catch(() => {});
    return stream;
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

type Waiting = (outcome: Packet | Error) => void;

/** Packets of one stream: who waits for a kind gets the next of it, messages are kept in order. */
function converse(stream: Duplex, name: string, failure: (error: Error) => Error) {
  const packets = new mqtt.Packets();
  const waiting = new Map<Packet["kind"], Waiting[]>();
  const messages: Message[] = [];
  let ended: Error | undefined;
  let lastId = 0;

  const end = (error: Error) => {
    ended ??= error;
    for (const each of [...waiting.values()].flat()) each(ended);
    waiting.clear();
  };
  const take = (packet: Packet) => {
    const first = waiting.get(packet.kind)?.shift();
    if (first !== undefined) first(packet);
    else if (packet.kind === "publish") messages.push(packet);
  };
  stream.on("data", (chunk: Buffer) => {
    try {
      for (const packet of packets.push(chunk)) take(packet);
    } catch (error) {
      stream.destroy(error as Error);
    }
  });
  stream.on("error", () => {}); // told by `close`
  stream.on("end", () => stream.destroy());
  stream.on("close", () => {
    const gone = new AgentError("E_CONNECTION", `${name} has cut the connection`);
    end(stream.errored === null || stream.errored === undefined ? gone : failure(stream.errored));
  });

  const wait = <K extends Packet["kind"]>(kind: K): Promise<Extract<Packet, { kind: K }>> =>
    new Promise((resolve, reject) => {
      if (ended !== undefined) return reject(ended);
      const settle: Waiting = (outcome) =>
        outcome instanceof Error ? reject(outcome) : resolve(outcome as Extract<Packet, { kind: K }>);
      waiting.set(kind, [...(waiting.get(kind) ?? []), settle]);
    });
  const visit: Visit = {
    async subscribe(topics) {
      stream.write(mqtt.subscribe((lastId += 1), topics));
      const { codes } = await wait("suback");
      return topics.filter((_, index) => (codes[index] ?? 0x80) >= 0x80);
    },
    async publish(topic, payload) {
      const id = (lastId += 1);
      stream.write(mqtt.publish(id, topic, payload));
      while ((await wait("puback")).id !== id);
    },
    async settle() {
      stream.write(mqtt.pingRequest());
      await wait("pingresp");
      return messages.splice(0);
    },
    async next() {
      return messages.shift() ?? (await wait("publish"));
    },
    close() {
      if (stream.destroyed) return;
      stream.end(mqtt.disconnect());
      stream.once("finish", () => stream.destroy());
    },
  };
  return { wait, visit };
}
