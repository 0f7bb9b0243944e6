import { createSocket, type RemoteInfo } from "node:dgram";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import type { TestContext } from "node:test";

/** A SOME/IP service with service discovery, on a loopback address and in a multicast group of its own. */
export interface SomeIpService {
  readonly host: string;
  /** Of its method calls, UDP and TCP. */
  readonly port: number;
  readonly group: string;
  readonly groupPort: number;
  /** Messages that came to its port, in hexadecimal. */
  readonly requests: string[];
  /** Entries of service discovery that came: `find 1234.ffff`, `subscribe 1234.0001 0010 ttl 10 at 127.0.0.1:30490/17`. */
  readonly heard: string[];
  /** Offers nothing and answers no search. */
  isHidden: boolean;
  /** Answers no subscription. */
  ignoresSubscriptions: boolean;
  /** Bits of TCP answers come one by one. */
  crumbles: boolean;
  /** Tells all that it is there, or (0) not any more. */
  offer(ttl?: number): void;
  /** Sends an event to the subscribers. */
  notify(eventId: number, payload: string): void;
  /** Sends to whoever spoke last. */
  sendRaw(bytes: Uint8Array): void;
  sendDiscoveryRaw(bytes: Uint8Array): void;
  /** Closes all TCP connections. */
  hangUp(): void;
  readonly connections: ReadonlySet<Socket>;
}

export const serviceId = 0x1234;
export const instanceId = 0x0001;
export const majorVersion = 2;
export const eventgroupId = 0x0010;

const random = () => 1 + Math.floor(Math.random() * 250);

export function someIpHeader(
  service: number,
  method: number,
  payload: Buffer,
  type: number,
  ids = 0x0001_0001,
): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt16BE(service, 0);
  header.writeUInt16BE(method, 2);
  header.writeUInt32BE(payload.length + 8, 4);
  header.writeUInt32BE(ids, 8);
  header.set([1, majorVersion, type, 0], 12);
  return Buffer.concat([header, payload]);
}

export async function startSomeIpService(t: Pick<TestContext, "after">): Promise<SomeIpService> {
  const host = `127.${random()}.${random()}.${random()}`;
  const group = `239.${random()}.${random()}.${random()}`;
  const requests: string[] = [];
  const heard: string[] = [];
  const subscribers = new Map<string, { address: string; port: number; tcp: boolean }>();
  const connections = new Set<Socket>();
  let lastSender: RemoteInfo | undefined;

  const bind = async (address: string, port: number) => {
    const socket = createSocket({ type: "udp4", reuseAddr: true });
    socket.bind(port, address);
    await once(socket, "listening");
    t.after(() => socket.close());
    return socket;
  };
  const calls = await bind(host, 0);
  const { port } = calls.address();
  const discovery = await bind(host, 0);
  const groupPort = discovery.address().port;
  discovery.setMulticastInterface(host);
  const groupSocket = await bind(group, groupPort);
  groupSocket.addMembership(group, host);

  /** What it answers to a message. */
  const answer = (message: Buffer): Buffer[] => {
    requests.push(message.toString("hex"));
    const method = message.readUInt16BE(2);
    const reply = (type: number, code: number, payload: Buffer, ids = message.readUInt32BE(8)) => {
      const bytes = someIpHeader(message.readUInt16BE(0), method, payload, type, ids);
      bytes[13] = message[13] ?? 0;
      bytes[15] = code;
      return bytes;
    };
    const payload = message.subarray(16);
    switch (method) {
      case 1:
        return [reply(0x80, 0, payload)];
      case 2:
        return [reply(0x81, 0x05, Buffer.alloc(0))];
      case 3:
        return [];
      case 4: // answers an older call first, and another client's
        return [
          reply(0x80, 0, Buffer.from("old"), 0x0001_ffee),
          reply(0x80, 0, Buffer.from("other"), 0x0002_0001),
        ].concat(reply(0x80, 0, payload));
      default:
        return [reply(0x81, 0x03, Buffer.alloc(0))];
    }
  };

  calls.on("message", (datagram, from) => {
    lastSender = from;
    for (let rest = datagram; rest.length >= 16; rest = rest.subarray(8 + rest.readUInt32BE(4))) {
      for (const reply of answer(rest.subarray(0, 8 + rest.readUInt32BE(4))))
        calls.send(reply, from.port, from.address);
    }
  });

  const server = createServer((socket) => {
    connections.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => connections.delete(socket));
    let held = Buffer.alloc(0);
    socket.on("data", (chunk) => {
      held = Buffer.concat([held, chunk]);
      while (held.length >= 8 && held.length >= 8 + held.readUInt32BE(4)) {
        const message = held.subarray(0, 8 + held.readUInt32BE(4));
        held = held.subarray(message.length);
        for (const reply of answer(message)) write(socket, reply);
      }
    });
  }).listen(port, host);
  await once(server, "listening");
  t.after(() => {
    for (const socket of connections) socket.destroy();
    server.close();
  });
  let crumbling = Promise.resolve();
  const write = (socket: Socket, bytes: Buffer) => {
    if (!service.crumbles) return void socket.write(bytes);
    crumbling = crumbling.then(async () => {
      for (const byte of bytes) await new Promise((resolve) => socket.write(Uint8Array.of(byte), resolve));
    });
  };

  let session = 0;
  const discoveryMessage = (entry: Buffer, options: Buffer): Buffer => {
    const counted = (bytes: Buffer) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      return Buffer.concat([length, bytes]);
    };
    const payload = Buffer.concat([Buffer.from([0xc0, 0, 0, 0]), counted(entry), counted(options)]);
    const message = someIpHeader(0xffff, 0x8100, payload, 0x02, (session += 1));
    message[13] = 1;
    return message;
  };
  const endpoint = (protocol: number, type = 0x04, address = host, at = port) => {
    const option = Buffer.from([0, 9, type, 0, ...address.split(".").map(Number), 0, protocol, 0, 0]);
    option.writeUInt16BE(at, 10);
    return option;
  };
  const offerMessage = (ttl: number): Buffer => {
    const entry = Buffer.alloc(16);
    entry.set([0x01, 0, 0, 0x20]);
    entry.writeUInt16BE(serviceId, 4);
    entry.writeUInt16BE(instanceId, 6);
    entry.writeUInt32BE((majorVersion << 24) | ttl, 8);
    entry.writeUInt32BE(7, 12);
    return discoveryMessage(entry, Buffer.concat([endpoint(17), endpoint(6)]));
  };

  const onDiscovery = (datagram: Buffer, from: RemoteInfo) => {
    if (from.address === host && from.port === groupPort) return; // its own
    const entriesLength = datagram.readUInt32BE(20);
    const options = datagram.subarray(24 + entriesLength + 4);
    for (let at = 24; at < 24 + entriesLength; at += 16) {
      const entry = datagram.subarray(at, at + 16);
      const [type = 0] = entry;
      const ids = `${entry.toString("hex", 4, 6)}.${entry.toString("hex", 6, 8)}`;
      const ttl = entry.readUIntBE(9, 3);
      if (type === 0) {
        heard.push(`find ${ids}`);
        const wanted = entry.readUInt16BE(4);
        if (!service.isHidden && (wanted === serviceId || wanted === 0xffff)) {
          discovery.send(offerMessage(3), from.port, from.address);
        }
      } else if (type === 6) {
        const option = options.subarray((entry[1] ?? 0) * 12);
        const address = [...option.subarray(4, 8)].join(".");
        const subscriber = { address, port: option.readUInt16BE(10), tcp: option[9] === 6 };
        const group16 = entry.readUInt16BE(14);
        const where = `${address}:${subscriber.port}/${option[9]}`;
        heard.push(`subscribe ${ids} ${group16.toString(16).padStart(4, "0")} ttl ${ttl} at ${where}`);
        if (service.ignoresSubscriptions) continue;
        const accepted = group16 === eventgroupId;
        if (accepted && ttl > 0) subscribers.set(where, subscriber);
        else subscribers.delete(where);
        if (ttl === 0) continue;
        const ack = Buffer.from(entry);
        ack.set([0x07, 0, 0, 0]);
        ack.writeUIntBE(accepted ? ttl : 0, 9, 3);
        discovery.send(discoveryMessage(ack, Buffer.alloc(0)), from.port, from.address);
      }
    }
  };
  discovery.on("message", onDiscovery);
  groupSocket.on("message", onDiscovery);

  const service: SomeIpService = {
    host,
    port,
    group,
    groupPort,
    requests,
    heard,
    isHidden: false,
    ignoresSubscriptions: false,
    crumbles: false,
    offer: (ttl = 3) => discovery.send(offerMessage(ttl), groupPort, group),
    notify(eventId, payload) {
      const message = someIpHeader(serviceId, eventId, Buffer.from(payload, "hex"), 0x02);
      for (const { address, port: at, tcp } of subscribers.values()) {
        if (!tcp) calls.send(message, at, address);
        else for (const socket of connections) if (socket.remotePort === at) write(socket, message);
      }
    },
    sendRaw(bytes) {
      if (lastSender !== undefined) calls.send(bytes, lastSender.port, lastSender.address);
    },
    sendDiscoveryRaw: (bytes) => discovery.send(bytes, groupPort, group),
    hangUp: () => connections.forEach((socket) => socket.destroy()),
    connections,
  };
  return service;
}
