import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { TestContext } from "node:test";
import { joinStreams } from "../../agent/session/join-streams.ts";

/** A local TCP port whose connections become streams of a driver, as the Python client forwards them. @returns the port */
export async function forwardPort(t: Pick<TestContext, "after">, open: () => Promise<Duplex>): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    socket.on("error", () => {});
    open()
      .then((stream) => joinStreams(socket, stream))
      .catch(() => {})
      .finally(() => socket.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as { port: number }).port;
}
