import { lookup as resolve } from "node:dns";
import { connect as connectSocket, isIP, type LookupFunction, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { connect as connectTls } from "node:tls";
import { AgentError, isSystemError } from "../driver/errors.ts";
import type { Address } from "./address.ts";

/** Dead peers are noticed by the kernel, without HTTP/2 pings that strict servers count. */
const keepaliveMs = 20_000;

/** A host with several addresses is tried at one after the other; a slow network needs more than Node's 250 ms. */
const nextAddressMs = 1_000;

export interface TlsOptions {
  /** PEM certificates to trust; undefined: those that Node brings along. */
  readonly ca: Buffer | string | undefined;
  /** False: any certificate will do. */
  readonly verify: boolean;
  /** The name that the certificate must bear; undefined: the host's. */
  readonly serverName: string | undefined;
}

/** Opens the byte stream that HTTP/2 runs on. @param tls undefined: plaintext */
export function openTransport(address: Address, tls: TlsOptions | undefined, lookup: LookupFunction): Transport {
  const socket = openSocket(address, lookup);
  return new Transport(socket, tls === undefined ? socket : openTls(socket, address, tls), address);
}

function openSocket(address: Address, lookup: LookupFunction): Socket {
  if (address.kind === "unix") return connectSocket({ path: address.path });
  const { host, port } = address;
  return connectSocket({
    ...{ host, port, lookup, noDelay: true, keepAlive: true, keepAliveInitialDelay: keepaliveMs },
    autoSelectFamilyAttemptTimeout: nextAddressMs,
  });
}

function openTls(socket: Socket, address: Address, { ca, verify, serverName }: TlsOptions): Socket {
  const host = serverName ?? (address.kind === "unix" ? "localhost" : address.host);
  return connectTls({
    socket,
    ALPNProtocols: ["h2"],
    host,
    // A server name is a name: addresses are only compared with the certificate.
    ...(isIP(host) ? {} : { servername: host }),
    ...(ca === undefined ? {} : { ca }),
    ...(verify ? {} : { rejectUnauthorized: false, checkServerIdentity: () => undefined }),
  });
}

/**
 * Resolves names, each once at a time: a name server that does not answer blocks one of the process's few threads for
 * each question, and attempts to connect are given up long before it is.
 */
export function createLookup(): LookupFunction {
  type Answer = Parameters<LookupFunction>[2];
  const waiting = new Map<string, Answer[]>();
  return (host, options, done) => {
    const question = JSON.stringify([host, options]);
    const others = waiting.get(question);
    if (others !== undefined) {
      others.push(done);
      return;
    }
    const all = [done];
    waiting.set(question, all);
    resolve(host, options, (...answer: Parameters<Answer>) => {
      waiting.delete(question);
      for (const one of all) one(...answer);
    });
  };
}

/**
 * A socket that takes every write at once. Node's HTTP/2 stops reading while a write of its own is pending; when it
 * does so at both ends, two peers that both send more than the kernel buffers wait for each other for ever. What is
 * held here is bounded by the peer's flow-control windows.
 */
export class Transport extends Duplex {
  readonly #socket: Socket;
  #heard = 0;
  #heardAtMs = performance.now();

  /** @param outer what HTTP/2 runs on: the TCP socket itself, or TLS on it */
  constructor(inner: Socket, outer: Socket, address: Address) {
    super();
    this.#socket = outer;
    // "step": the connection has come nearer.
    inner.once("connect", () => this.emit("step"));
    outer.once("secureConnect", () => this.emit("step"));
    outer.on("data", (chunk: Buffer) => {
      this.#heard += 1;
      this.#heardAtMs = performance.now();
      if (!this.push(chunk)) outer.pause();
    });
    outer.once("end", () => this.push(null));
    outer.on("error", (error) => this.destroy(explain(error, address)));
    inner.on("error", (error) => this.destroy(explain(error, address)));
    outer.once("close", () => this.destroy());
  }

  /** Grows whenever something comes from the peer. */
  get heard(): number {
    return this.#heard;
  }

  /** How long nothing has come. */
  get silentMs(): number {
    return performance.now() - this.#heardAtMs;
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk);
    done();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}

/** What the system says of a name that cannot be resolved leaves out the name. */
function explain(error: Error, address: Address): Error {
  if (!isSystemError(error) || error.syscall !== "getaddrinfo" || address.kind === "unix") return error;
  return new AgentError("E_CONNECTION", `Failed resolving ${address.host} (${error.code})`, { cause: error });
}
