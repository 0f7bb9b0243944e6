import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";
import type { TestContext } from "node:test";
import { UdsServer } from "./uds-server.ts";

/** What happens instead of what should; looked up at each message. */
interface Manners {
  /** Response code of routing activations. */
  activation: number;
  /** Answers no routing activation. */
  ignoresActivation: boolean;
  /** NACK code in place of the acknowledgement of diagnostic messages. */
  nack: number | undefined;
  acknowledges: boolean;
  /** Everything that it sends over TCP arrives in pieces of one byte. */
  crumbles: boolean;
  /** Answers datagrams. */
  hearsDatagrams: boolean;
  /** Sends this before each answer by datagram. */
  datagramPrelude: Uint8Array | undefined;
}

/** A DoIP entity on a loopback address of its own, as clients expect its UDP port to be 13400. */
export interface DoipEntity extends Manners {
  readonly host: string;
  readonly port: number;
  readonly ecu: UdsServer;
  /** Connections that are open. */
  readonly connections: ReadonlySet<Socket>;
  /** How many there ever were. */
  readonly accepted: number;
  /** Payload types of all that was received, by TCP and UDP. */
  readonly heard: number[];
  /** Source addresses in answers to alive checks. */
  readonly alive: number[];
  /** To all connections. */
  send(type: number, payload: Uint8Array): void;
  sendRaw(bytes: Uint8Array): void;
  /** Closes all connections, and listens on. */
  hangUp(): void;
  /** As if its plug was pulled. */
  stop(): void;
}

export const ecuAddress = 0x00e0;
export const testerAddress = 0x0e00;

function encode(type: number, payload: Uint8Array): Buffer {
  const header = Buffer.from([0x02, 0xfd, 0, 0, 0, 0, 0, 0]);
  header.writeUInt16BE(type, 2);
  header.writeUInt32BE(payload.length, 4);
  return Buffer.concat([header, payload]);
}

const identification = Buffer.concat([
  Buffer.from("WVWZZZ1JZXW000001"),
  Buffer.from("00e0", "hex"),
  Buffer.from("aabbccddeeff", "hex"),
  Buffer.from("010203040506", "hex"),
  Buffer.from([0x00, 0x10]),
]);

export async function startDoipEntity(t: Pick<TestContext, "after">, ecu = new UdsServer()): Promise<DoipEntity> {
  const connections = new Set<Socket>();
  const heard: number[] = [];
  const alive: number[] = [];
  const random = () => 1 + Math.floor(Math.random() * 250);
  const host = `127.${random()}.${random()}.${random()}`;

  let crumbling = Promise.resolve();
  const write = (socket: Socket, bytes: Buffer) => {
    if (!entity.crumbles) return void socket.write(bytes);
    // Written in one turn the kernel would put them together again.
    crumbling = crumbling.then(async () => {
      for (const byte of bytes) await new Promise((resolve) => socket.write(Uint8Array.of(byte), resolve));
    });
  };

  const onMessage = (socket: Socket, type: number, payload: Buffer) => {
    heard.push(type);
    const reply = (kind: number, body: Uint8Array) => write(socket, encode(kind, body));
    if (type === 0x0005 && !entity.ignoresActivation) {
      const code = payload[2] === 0xe5 ? 0x06 : entity.activation;
      reply(0x0006, Buffer.concat([payload.subarray(0, 2), Buffer.from([0, 0xe0, code, 0, 0, 0, 0])]));
    } else if (type === 0x0007) reply(0x0008, payload.length === 0 ? Buffer.from("0e00", "hex") : payload);
    else if (type === 0x0008) alive.push(payload.readUInt16BE());
    else if (type === 0x8001) {
      const [tester, target] = [payload.subarray(0, 2), payload.subarray(2, 4)];
      const back = Buffer.concat([target, tester]);
      if (entity.nack !== undefined) return reply(0x8003, Buffer.concat([back, Buffer.from([entity.nack])]));
      if (entity.acknowledges) reply(0x8002, Buffer.concat([back, Buffer.from([0])]));
      let afterMs = 0;
      for (const saying of ecu.respond(payload.subarray(4))) {
        afterMs += saying.afterMs;
        const say = () => reply(0x8001, Buffer.concat([back, saying.message]));
        if (afterMs === 0) say();
        else setTimeout(say, afterMs).unref();
      }
    }
  };

  const server = createServer((socket) => {
    connections.add(socket);
    entity.accepted += 1;
    let buffered = Buffer.alloc(0);
    socket.on("error", () => {});
    socket.on("close", () => connections.delete(socket));
    socket.on("data", (chunk) => {
      buffered = Buffer.concat([buffered, chunk]);
      for (;;) {
        if (buffered.length < 8) return;
        const length = buffered.readUInt32BE(4);
        if (buffered.length < 8 + length) return;
        const [type, payload] = [buffered.readUInt16BE(2), buffered.subarray(8, 8 + length)];
        buffered = buffered.subarray(8 + length);
        onMessage(socket, type, payload);
      }
    });
  }).listen(0, host);
  await once(server, "listening");

  const datagrams = createSocket("udp4");
  datagrams.on("message", (message, { address, port }) => {
    const type = message.readUInt16BE(2);
    heard.push(type);
    if (!entity.hearsDatagrams) return;
    if (entity.datagramPrelude !== undefined) datagrams.send(entity.datagramPrelude, port, address);
    const reply = (kind: number, payload: Uint8Array) => datagrams.send(encode(kind, payload), port, address);
    const body = message.subarray(8);
    if (type === 0x0001) reply(0x0004, identification);
    else if (type === 0x0002 && body.equals(identification.subarray(19, 25))) reply(0x0004, identification);
    else if (type === 0x0003 && body.equals(identification.subarray(0, 17))) reply(0x0004, identification);
    else if (type === 0x4001) reply(0x4002, Buffer.from("00 10 01 00000fff".replaceAll(" ", ""), "hex"));
    else if (type === 0x4003) reply(0x4004, Buffer.from([1]));
  });
  datagrams.bind(13_400, host);
  await once(datagrams, "listening");

  let isStopped = false;
  const hangUp = () => {
    for (const socket of connections) socket.destroy();
  };
  const stop = () => {
    if (isStopped) return;
    isStopped = true;
    hangUp();
    server.close();
    datagrams.close();
  };
  t.after(stop);
  const entity = {
    activation: 0x10,
    ignoresActivation: false,
    nack: undefined as number | undefined,
    acknowledges: true,
    crumbles: false,
    hearsDatagrams: true,
    datagramPrelude: undefined as Uint8Array | undefined,
    accepted: 0,
    host,
    port: (server.address() as AddressInfo).port,
    ecu,
    connections,
    heard,
    alive,
    send: (type: number, payload: Uint8Array) => connections.forEach((socket) => write(socket, encode(type, payload))),
    sendRaw: (bytes: Uint8Array) => connections.forEach((socket) => socket.write(bytes)),
    hangUp,
    stop,
  };
  return entity;
}
