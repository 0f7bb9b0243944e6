import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import type { TestContext } from "node:test";

/** What becomes of a datagram: those that go on in its place, now or later. */
type Meddle = (datagram: Buffer) => readonly (Uint8Array | { bytes: Uint8Array; afterMs: number })[];

export interface Meddler {
  readonly port: number;
  /** Datagrams of clients so far. */
  requests: number;
  /** Towards the server. */
  onRequest: Meddle;
  /** Towards the client. */
  onAnswer: Meddle;
}

/** Stands between UDP clients and a server on loopback and does to their datagrams what a test wants. */
export async function meddle(t: Pick<TestContext, "after">, targetPort: number): Promise<Meddler> {
  const sockets = new Set<Socket>();
  const timers = new Set<NodeJS.Timeout>();
  const pass: Meddle = (datagram) => [datagram];
  const open = async () => {
    const socket = createSocket("udp4").on("error", () => {});
    sockets.add(socket);
    socket.bind(0, "127.0.0.1");
    await once(socket, "listening");
    return socket;
  };
  const front = await open();
  t.after(() => {
    for (const timer of timers) clearTimeout(timer);
    for (const socket of sockets) socket.close();
    sockets.clear();
  });
  const send = (from: Socket, port: number, datagrams: ReturnType<Meddle>) => {
    for (const datagram of datagrams) {
      if (datagram instanceof Uint8Array) from.send(datagram, port, "127.0.0.1");
      else {
        const later = () => sockets.has(from) && from.send(datagram.bytes, port, "127.0.0.1");
        timers.add(setTimeout(later, datagram.afterMs));
      }
    }
  };
  const meddler: Meddler = { port: front.address().port, requests: 0, onRequest: pass, onAnswer: pass };
  const backs = new Map<number, Promise<Socket>>();
  front.on("message", (request: Buffer, client) => {
    let back = backs.get(client.port);
    if (back === undefined) {
      back = open();
      backs.set(client.port, back);
      void back.then((socket) =>
        socket.on("message", (answer: Buffer) => send(front, client.port, meddler.onAnswer(answer))),
      );
    }
    meddler.requests += 1;
    const datagrams = meddler.onRequest(request);
    void back.then((socket) => send(socket, targetPort, datagrams));
  });
  return meddler;
}
