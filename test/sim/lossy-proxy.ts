import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import type { TestContext } from "node:test";

export interface LossyProxyOptions {
  targetPort: number;
  /** Chances of one packet, each way: 0 to 1. */
  loss?: number;
  /** Held back so that later ones overtake it. */
  reorder?: number;
  duplicate?: number;
  seed?: number;
}

/**
 * A bad network between TFTP clients and a server on loopback: loses, swaps and doubles packets, always the same ones
 * for the same seed and traffic. Follows transfers to their own ports, as a NAT does.
 */
export async function lossyProxy(t: TestContext, options: LossyProxyOptions): Promise<{ port: number }> {
  const { targetPort, loss = 0, reorder = 0, duplicate = 0 } = options;
  const random = mulberry32(options.seed ?? 1);
  const sockets = new Set<Socket>();
  const timers = new Set<NodeJS.Timeout>();
  t.after(() => {
    for (const timer of timers) clearTimeout(timer);
    for (const socket of sockets) socket.close();
    sockets.clear();
  });

  const pass = (from: Socket, bytes: Buffer, port: number) => {
    if (random() < loss) return;
    const copies = random() < duplicate ? 2 : 1;
    for (let copy = 0; copy < copies; copy += 1) {
      if (random() >= reorder) from.send(bytes, port, "127.0.0.1");
      else {
        const timer = setTimeout(() => {
          timers.delete(timer);
          if (sockets.has(from)) from.send(bytes, port, "127.0.0.1");
        }, 3);
        timers.add(timer);
      }
    }
  };
  const open = async () => {
    const socket = createSocket({ type: "udp4", recvBufferSize: 1 << 20 });
    sockets.add(socket);
    socket.bind(0, "127.0.0.1");
    await once(socket, "listening");
    return socket;
  };

  const front = await open();
  const flows = new Map<number, Promise<Socket>>();
  front.on("message", (request: Buffer, client) => {
    // One socket towards the server per client, and one towards the client per transfer port.
    const flow = flows.get(client.port) ?? makeFlow(client.port);
    flows.set(client.port, flow);
    void flow.then((back) => pass(back, request, targetPort));
  });
  const makeFlow = async (clientPort: number) => {
    const back = await open();
    const faces = new Map<number, Promise<Socket>>();
    back.on("message", (bytes: Buffer, server) => {
      let face = faces.get(server.port);
      if (face === undefined) {
        face = open().then((socket) => {
          socket.on("message", (answer: Buffer) => pass(back, answer, server.port));
          return socket;
        });
        faces.set(server.port, face);
      }
      void face.then((socket) => pass(socket, bytes, clientPort));
    });
    return back;
  };
  return { port: front.address().port };
}

/** A small random generator with a seed (public domain, Tommy Ettinger). */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
