import { createServer, type Server, type Socket } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseEndpoint } from "../../agent/client/address.ts";
import { Channel } from "../../agent/client/channel.ts";
import { connect, type Client } from "../../agent/client/connect.ts";
import { rpcMethod } from "../../agent/client/rpc-method.ts";
import { openRouterStream } from "../../agent/client/stream.ts";
import { ControllerServiceDefinition, ExporterServiceDefinition } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { scratch } from "./agent.ts";

/** What `jmp shell` is to a lease, without Python: every connection that it makes is dialled through the controller. */
export interface LeaseClient {
  /** Connects to the exporter of a lease. A connection that is lost is dialled again at the next call. */
  connect(lease: string): Promise<LeaseConnection>;
}

export interface LeaseConnection extends Client {
  /** Says that the work of the lease is done. */
  endSession(): Promise<void>;
}

/** A client's configuration, as far as it says where and who. */
interface ClientConfig {
  readonly metadata: { readonly namespace: string; readonly name: string };
  readonly endpoint: string;
  readonly token: string;
  readonly tls: { readonly ca: string };
}

/** How long a client tries to dial: the exporter may not listen yet. */
const dialMs = 20_000;

/** A client of a lab; its connections end with the test. */
export function leaseClient(t: Pick<TestContext, "after">, clientConfig: object): LeaseClient {
  const { metadata, endpoint, token, tls } = clientConfig as ClientConfig;
  const directory = scratch(t);
  const ca = Buffer.from(tls.ca, "base64");
  const controller = new Channel(parseEndpoint(endpoint), { ca });
  const routers = new Map<string, Channel>();
  const closers: (() => unknown)[] = [() => controller.close()];
  t.after(async () => {
    for (const close of closers.reverse()) await close();
    for (const router of routers.values()) await router.close();
  });

  const dial = async (lease: string): Promise<Duplex> => {
    const call = { what: "Dial", deadlineMs: dialMs, metadata: credentials(metadata, token) };
    for (const until = performance.now() + dialMs; ;) {
      try {
        const dialled = await controller.unary(
          rpcMethod(ControllerServiceDefinition, "dial"),
          { leaseName: lease },
          call,
        );
        const { routerEndpoint, routerToken } = dialled;
        const router = routers.get(routerEndpoint) ?? new Channel(parseEndpoint(routerEndpoint), { ca });
        routers.set(routerEndpoint, router);
        return openRouterStream(router, { authorization: `Bearer ${routerToken}` }, { what: "a tunnel" });
      } catch (error) {
        if (performance.now() > until) throw error;
        await sleep(50);
      }
    }
  };

  let made = 0;
  return {
    async connect(lease) {
      const host = join(directory, `${++made}.sock`);
      const door = await openDoor(host, () => dial(lease));
      closers.push(() => closeDoor(door));
      const client = await connect({ host });
      closers.push(() => client.close());
      return {
        ...client,
        async endSession() {
          const session = new Channel({ kind: "unix", path: host }, {});
          await session.unary(rpcMethod(ExporterServiceDefinition, "endSession"), {}, { what: "EndSession" });
          await session.close();
        },
      };
    },
  };
}

interface Door {
  readonly server: Server;
  readonly sockets: Set<Socket>;
}

/** A local socket of which each connection becomes a tunnel. */
async function openDoor(path: string, dial: () => Promise<Duplex>): Promise<Door> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => sockets.delete(socket));
    dial().then(
      (tunnel) => {
        tunnel.on("error", () => {}).once("close", () => socket.destroy());
        socket.once("close", () => tunnel.destroy());
        socket.pipe(tunnel).pipe(socket);
      },
      () => socket.destroy(),
    );
  });
  await once(server.listen(path), "listening");
  return { server, sockets };
}

function closeDoor({ server, sockets }: Door): void {
  server.close();
  for (const socket of sockets) socket.destroy();
}

function credentials({ namespace, name }: ClientConfig["metadata"], token: string): Record<string, string> {
  return {
    "jumpstarter-kind": "Client",
    "jumpstarter-namespace": namespace,
    "jumpstarter-name": name,
    authorization: `Bearer ${token}`,
  };
}
