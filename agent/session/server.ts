import { createHash, timingSafeEqual } from "node:crypto";
import { chmod } from "node:fs/promises";
import type { IncomingHttpHeaders } from "node:http2";
import type { ListenOptions } from "node:net";
import type { Duplex } from "node:stream";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import { exporterService, type Service } from "./exporter-service.ts";
import { Limit } from "./limit.ts";
import { routerService } from "./router-service.ts";
import { RpcServer } from "./rpc-server.ts";
import type { Session } from "./session.ts";
import type { Caller } from "./status.ts";
import { removeDeadSocket } from "./unix-socket.ts";

export interface SessionLimits {
  readonly connections?: number;
  /** Driver calls that run at once. */
  readonly calls?: number;
  /** Byte streams and lent resources that are open at once. */
  readonly streams?: number;
}

interface CommonOptions {
  /** `hook` for the private socket of lease hooks, which may call drivers while a hook runs. */
  readonly caller?: Caller;
  readonly limits?: SessionLimits | undefined;
  /** How long a stream to a serial port and its like outlives its client's end without output. */
  readonly lingerMs?: number;
}

export interface UnixListener extends CommonOptions {
  /** Path of the socket; only its owner may connect. */
  readonly unix: string;
}

export interface TcpListener extends CommonOptions {
  readonly host: string;
  /** 0 for any free one. */
  readonly port: number;
  /** PEM texts; plaintext without. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer } | undefined;
  /** Demanded from every RPC. */
  readonly passphrase?: string | undefined;
}

/** A session that is being served. */
export interface Served {
  /** What a client takes as host: the socket's path or `host:port`. */
  readonly address: string;
  readonly port?: number;
  /** Stops listening; calls that run may finish within the grace, then they are cancelled. */
  close(graceMs?: number): Promise<void>;
}

/** A session that is served to connections which come some other way than through a listener. */
export interface ServedTunnels {
  /** Serves one connection: the bytes of a client's HTTP/2. */
  inject(connection: Duplex): void;
  close(graceMs?: number): Promise<void>;
}

/** Serves a session to connections that are handed in. */
export function serveTunnels(session: Session, options: CommonOptions = {}): ServedTunnels {
  const { server, close } = createServer(session, options);
  return { inject: (connection) => server.inject(connection), close };
}

/** Serves a session on an address. @throws AgentError E_IO if the address cannot be had */
export async function serve(session: Session, listener: UnixListener | TcpListener): Promise<Served> {
  const { server, close } = createServer(session, listener);
  if ("unix" in listener) {
    await removeDeadSocket(listener.unix);
    await listen(server, { path: listener.unix });
    await chmod(listener.unix, 0o600);
    return { address: listener.unix, close };
  }
  await listen(server, { host: listener.host, port: listener.port });
  const bound = server.http2.address();
  const port = bound !== null && typeof bound === "object" ? bound.port : listener.port;
  const host = listener.host.includes(":") && !listener.host.startsWith("[") ? `[${listener.host}]` : listener.host;
  return { address: `${host}:${port}`, port, close };
}

function createServer(session: Session, options: CommonOptions & Partial<TcpListener>) {
  const closing = new AbortController();
  const service: Service = {
    session,
    caller: options.caller ?? "client",
    calls: new Limit(options.limits?.calls ?? 256, "driver calls"),
    streams: new Limit(options.limits?.streams ?? 512, "byte streams"),
    lingerMs: options.lingerMs ?? 10_000,
    closing: closing.signal,
  };
  const log = session.exporter.logs.logger({ source: "system", logger: "session" });
  const server = new RpcServer(new Map([...exporterService(service), ...routerService(service)]), {
    log,
    tls: options.tls,
    admit: options.passphrase === undefined ? () => {} : demandPassphrase(options.passphrase, log),
    ...(options.limits?.connections === undefined ? {} : { maxConnections: options.limits.connections }),
  });
  const close = (graceMs = 1_000) => {
    closing.abort();
    return server.close(graceMs);
  };
  return { server, close };
}

async function listen(server: RpcServer, where: ListenOptions): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const failed = (error: Error) => reject(toAgentError(error));
    server.http2.once("error", failed);
    server.http2.listen(where, () => {
      server.http2.off("error", failed);
      resolve();
    });
  });
}

const digest = (text: string) => createHash("sha256").update(text).digest();

function demandPassphrase(passphrase: string, log: Logger) {
  const wanted = digest(passphrase);
  return (path: string, headers: IncomingHttpHeaders) => {
    const given = headers["x-jumpstarter-passphrase"];
    // Digests have one length, so the comparison tells nothing about the passphrase's.
    if (typeof given === "string" && timingSafeEqual(digest(given), wanted)) return;
    log.warn(`authentication failed: invalid or missing passphrase for method ${path}`);
    throw new AgentError("E_UNAUTHENTICATED", "invalid or missing passphrase");
  };
}
