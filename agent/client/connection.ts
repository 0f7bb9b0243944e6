import {
  connect,
  constants,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type OutgoingHttpHeaders,
} from "node:http2";
import type { LookupFunction } from "node:net";
import { AgentError } from "../driver/errors.ts";
import { systemRoots } from "../sys/trusted-certificates.ts";
import { hostPort, type Address } from "./address.ts";
import { openTransport, type Transport } from "./transport.ts";

export interface Security {
  /** Plaintext HTTP/2 on TCP. A unix socket is always plaintext. */
  readonly insecure?: boolean | undefined;
  /** False: TLS with whoever answers. It keeps out those who only listen, not those who take the peer's place. */
  readonly verify?: boolean | undefined;
  /** Sent with every RPC on TCP; a unix socket is protected by its directory. */
  readonly passphrase?: string | undefined;
  /** PEM certificates to trust instead of the system's roots. */
  readonly ca?: Buffer | string | undefined;
  /** The name that the peer's certificate must bear, instead of the host's. */
  readonly serverName?: string | undefined;
}

export interface ChannelOptions extends Security {
  /** What `:authority` says, instead of host and port. */
  readonly authority?: string | undefined;
  /** How long each step to an open connection may take: the name and TCP, TLS, HTTP/2. */
  readonly connectTimeoutMs?: number | undefined;
  /** A peer that was silent this long is pinged, calls or not; undefined: never. */
  readonly keepaliveMs?: number | undefined;
  /** A peer that is silent this long after a ping is gone. */
  readonly keepaliveTimeoutMs?: number | undefined;
}

/**
 * What may be under way to us, per stream and per connection. With HTTP/2's 64 KiB a dump over a link of 20 ms
 * runs at 3 MB/s. It is also what a slow disk here may leave in memory.
 */
const receiveWindowBytes = 16 * 1024 * 1024;

/** How long the last cancels may take to be sent when a connection closes. */
const closeGraceMs = 500;

const defaultConnectTimeoutMs = 10_000;
const defaultKeepaliveTimeoutMs = 20_000;

/** A peer that let a call's deadline pass in silence gets this long to show that it lives. */
const doubtMs = 5_000;

export interface ConnectionHooks {
  /** The peer does not want to be pinged this often. */
  readonly tooManyPings: () => void;
  readonly closed: () => void;
}

/** One HTTP/2 connection, with the watch over its life. */
export class Connection {
  readonly #session: ClientHttp2Session;
  readonly #transport: Transport;
  readonly #peer: string;
  #doubted = false;
  #open = 0;
  #connecting: NodeJS.Timeout | undefined;
  #idle: NodeJS.Timeout | undefined;
  #answer: NodeJS.Timeout | undefined;

  constructor(address: Address, options: ChannelOptions, lookup: LookupFunction, hooks: ConnectionHooks) {
    const { insecure, ca, verify = true, serverName, authority } = options;
    const plaintext = address.kind === "unix" || insecure === true;
    this.#peer = address.kind === "unix" ? address.path : hostPort(address);
    const tls = plaintext ? undefined : { ca: ca ?? (verify ? systemRoots() : undefined), verify, serverName };
    const transport = openTransport(address, tls, lookup);
    this.#transport = transport;
    const place = authority ?? serverName ?? (address.kind === "unix" ? "localhost" : hostPort(address));
    const session = connect(`${plaintext ? "http" : "https"}://${place}`, {
      settings: { enablePush: false, initialWindowSize: receiveWindowBytes },
      // The limit counts what waits for slow readers, which the windows bound already.
      maxSessionMemory: Number.MAX_SAFE_INTEGER,
      createConnection: () => transport,
    });
    this.#session = session;
    session.once("connect", () => session.setLocalWindowSize(receiveWindowBytes));
    // Calls learn of a broken connection from their streams.
    session.on("error", () => {});
    session.on("goaway", (code: number, _lastStream: number, reason?: Buffer) => {
      if (code === constants.NGHTTP2_ENHANCE_YOUR_CALM && reason?.toString() === "too_many_pings") hooks.tooManyPings();
    });
    session.once("close", () => {
      clearTimeout(this.#connecting);
      clearTimeout(this.#idle);
      clearTimeout(this.#answer);
      hooks.closed();
    });
    this.#limitConnecting(options.connectTimeoutMs ?? defaultConnectTimeoutMs, options);
  }

  /** Whether a new call has a place here. */
  get usable(): boolean {
    const { closed, destroyed, remoteSettings } = this.#session;
    // A call above the limit would wait until another one ends, and some go on for weeks.
    return !closed && !destroyed && !this.#doubted && this.#open < (remoteSettings?.maxConcurrentStreams ?? Infinity);
  }

  /** Grows whenever something comes from the peer. */
  get heard(): number {
    return this.#transport.heard;
  }

  request(headers: OutgoingHttpHeaders, signal: AbortSignal): ClientHttp2Stream {
    const stream = this.#session.request(headers, { signal });
    this.#open += 1;
    stream.once("close", () => (this.#open -= 1));
    return stream;
  }

  /** New calls go elsewhere until the peer shows that it lives; if it does not, the connection is cut. */
  doubt(): void {
    this.#doubted = true;
    this.#ping(doubtMs);
  }

  /** Calls that still run are cut after a moment. */
  async close(): Promise<void> {
    const session = this.#session;
    if (session.destroyed) return;
    await new Promise<void>((resolve) => {
      const cut = setTimeout(() => {
        session.destroy();
        this.#transport.destroy();
      }, closeGraceMs);
      session.once("close", () => {
        clearTimeout(cut);
        resolve();
      });
      session.close();
    });
  }

  #limitConnecting(limitMs: number, { keepaliveMs, keepaliveTimeoutMs }: ChannelOptions): void {
    const limit = setTimeout(() => this.#cut(`${this.#peer} does not answer`), limitMs);
    this.#connecting = limit;
    const step = () => limit.refresh();
    this.#transport.on("step", step);
    this.#session.once("remoteSettings", () => {
      clearTimeout(limit);
      this.#transport.off("step", step);
      if (keepaliveMs !== undefined) this.#keepAlive(keepaliveMs, keepaliveTimeoutMs ?? defaultKeepaliveTimeoutMs);
    });
  }

  #keepAlive(intervalMs: number, timeoutMs: number): void {
    const look = () => {
      const leftMs = intervalMs - this.#transport.silentMs;
      if (leftMs <= 0) this.#ping(timeoutMs);
      this.#idle = setTimeout(look, leftMs <= 0 ? intervalMs : leftMs);
    };
    look();
  }

  /** Whatever comes is an answer. */
  #ping(timeoutMs: number): void {
    if (this.#answer !== undefined || this.#session.destroyed) return;
    const heard = this.heard;
    const alive = () => {
      clearTimeout(this.#answer);
      this.#answer = undefined;
      this.#doubted = false;
    };
    this.#answer = setTimeout(() => {
      // When this process itself stood still, the answer may be here but not be read yet.
      setImmediate(() => {
        if (this.heard === heard) this.#cut(`${this.#peer} has stopped to answer`);
        else alive();
      });
    }, timeoutMs);
    this.#session.ping((error: Error | null) => {
      if (error === null) alive();
    });
  }

  #cut(why: string): void {
    this.#session.destroy(new AgentError("E_CONNECTION", why));
    // The session waits for what it has still to send, which nobody takes any more.
    this.#transport.destroy();
  }
}
