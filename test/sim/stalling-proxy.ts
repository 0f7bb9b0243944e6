import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import type { TestContext } from "node:test";

/** A TCP forwarder whose connections can fall silent without being closed, as when a router on the way loses power. */
export interface StallingProxy {
  readonly port: number;
  /** Connections from clients that are open now. */
  readonly connections: number;
  /** All connections that there are now carry nothing any more, in either direction; later ones do. */
  stall(): void;
}

export async function stallingProxy(t: TestContext, targetPort: number): Promise<StallingProxy> {
  const pairs = new Map<Socket, Socket>();
  const server = createServer({ allowHalfOpen: true }, (near) => {
    const far = connect({ port: targetPort, host: "127.0.0.1" });
    pairs.set(near, far);
    near.pipe(far).pipe(near);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
    near.on("close", () => {
      far.destroy();
      pairs.delete(near);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const [near, far] of pairs) {
      near.destroy();
      far.destroy();
    }
  });
  return {
    port: (server.address() as { port: number }).port,
    get connections() {
      return pairs.size;
    },
    stall() {
      for (const [near, far] of pairs) {
        near.unpipe(far);
        far.unpipe(near);
        // Read and thrown away, so that the end of a connection is still noticed here, though not at the other side.
        near.resume().once("end", () => near.destroy());
        far.resume();
      }
    },
  };
}
