import { Server, ServerCredentials, type ServiceDefinition, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { once } from "node:events";
import { createServer, type Server as TcpServer, type Socket } from "node:net";
import type { ServerCertificate } from "../certificates.ts";

export interface Service {
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
}

/** A TCP port with a gRPC server behind it, whose connections can be harmed one by one. */
export interface Port {
  readonly port: number;
  /** Connections that are open now. */
  readonly connections: number;
  readonly running: boolean;
  /** Listens again, on the same port. */
  start(): Promise<void>;
  /** Closes the port and all connections at once, as the kernel does for a process that was killed. */
  stop(): Promise<void>;
  /** Resets all connections; the port stays open. */
  reset(): void;
  /** Connections from now on see this certificate; those that are open stay. */
  useCertificate(certificate: ServerCertificate): void;
  /** Accepts connections but never answers on them, for those that come from now on. */
  mute(on: boolean): void;
}

export interface PortOptions {
  /** Default: one that is free. */
  readonly port?: number;
  readonly host?: string;
  /** Undefined: plain text. */
  readonly certificate?: ServerCertificate | undefined;
}

export async function openPort(services: readonly Service[], options: PortOptions = {}): Promise<Port> {
  const host = options.host ?? "127.0.0.1";
  let certificate = options.certificate;
  let { port = 0 } = options;
  let tcp: TcpServer | undefined;
  let muted = false;
  const sockets = new Set<Socket>();

  const credentials = () =>
    certificate
      ? ServerCredentials.createSsl(null, [
          { cert_chain: Buffer.from(certificate.certificate), private_key: Buffer.from(certificate.key) },
        ])
      : ServerCredentials.createInsecure();
  const serve = () => {
    const server = new Server();
    for (const { definition, implementation } of services) server.addService(definition, implementation);
    const injector = server.createConnectionInjector(credentials());
    return { server, injector };
  };
  let current = serve();

  const opened: Port = {
    get port() {
      return port;
    },
    get connections() {
      return sockets.size;
    },
    get running() {
      return tcp !== undefined;
    },
    async start() {
      if (tcp) return;
      current = serve();
      const listener = createServer({ noDelay: true }, (socket) => {
        sockets.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => sockets.delete(socket));
        if (!muted) current.injector.injectConnection(socket);
      });
      listener.listen(port, host);
      await once(listener, "listening");
      port = (listener.address() as { port: number }).port;
      tcp = listener;
    },
    async stop() {
      if (!tcp) return;
      const closed = once(tcp, "close");
      tcp.close();
      tcp = undefined;
      for (const socket of sockets) socket.destroy();
      current.server.forceShutdown();
      await closed;
    },
    reset() {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    useCertificate(next) {
      certificate = next;
      current = serve();
    },
    mute: (on) => void (muted = on),
  };
  await opened.start();
  return opened;
}
