import { connect as connectSocket, isIP, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { connect as connectTls } from "node:tls";
import type { Address } from "./address.ts";

/** Dead peers are noticed by the kernel, without HTTP/2 pings that strict servers count. */
const keepaliveMs = 20_000;

/** Opens the byte stream that HTTP/2 runs on. @param ca PEM certificates to trust; undefined: plaintext */
export function openTransport(address: Address, tls: { ca: Buffer | string | undefined } | undefined): Duplex {
  return new EagerSocket(tls === undefined ? openSocket(address) : openTls(address, tls.ca));
}

function openSocket(address: Address): Socket {
  if (address.kind === "unix") return connectSocket({ path: address.path });
  const { host, port } = address;
  return connectSocket({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: keepaliveMs });
}

function openTls(address: Address, ca: Buffer | string | undefined): Socket {
  const host = address.kind === "unix" ? "localhost" : address.host;
  return connectTls({
    socket: openSocket(address),
    ALPNProtocols: ["h2"],
    host,
    // A server name is a name: addresses are only compared with the certificate.
    ...(isIP(host) ? {} : { servername: host }),
    ...(ca === undefined ? {} : { ca }),
  });
}

/**
 * A socket that takes every write at once. Node's HTTP/2 stops reading while a write of its own is pending; when it
 * does so at both ends, two peers that both send more than the kernel buffers wait for each other for ever. What is
 * held here is bounded by the peer's flow-control windows.
 */
class EagerSocket extends Duplex {
  readonly #socket: Socket;

  constructor(socket: Socket) {
    super();
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      if (!this.push(chunk)) socket.pause();
    });
    socket.once("end", () => this.push(null));
    socket.once("error", (error) => this.destroy(error));
    socket.once("close", () => this.destroy());
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
