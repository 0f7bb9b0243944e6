import type { RemoteInfo, Socket } from "node:dgram";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { boundAddresses, hostPort, listenError } from "../addresses.ts";
import { bindUdp, createUdpSocket, Delivery } from "./delivery.ts";
import { buildError, errorCode, opcode, parsePacket, type ErrorCode, type Request } from "./protocol.ts";

export interface TftpServerOptions {
  /** Only regular files below this folder are served. */
  readonly root: string;
  /** Addresses or names to listen on; a wildcard (`0.0.0.0`, `::`) stands for every address of the host. */
  readonly hosts: readonly string[];
  /** 0 lets the system choose; all addresses then share the port. */
  readonly port: number;
  readonly log: Logger;
  readonly limits?: Partial<TftpLimits>;
}

export interface TftpLimits {
  /** Largest RFC 7440 window. U-Boot's virtio-net has 32 receive buffers and hangs for good when they overflow. */
  readonly windowSize: number;
  readonly transfers: number;
  /** Of `transfers`, how many one address may have. */
  readonly transfersPerPeer: number;
  /** A client without progress for so long is given up. */
  readonly silenceMs: number;
  readonly totalMs: number;
}

const defaultLimits: TftpLimits = {
  windowSize: 16,
  transfers: 128,
  transfersPerPeer: 64,
  silenceMs: 30_000,
  totalMs: 3_600_000,
};

/** RRQs with longer names are refused before the disk is asked. */
const nameLimit = 255;

/**
 * A read-only TFTP server. dgram cannot tell which local address a packet was sent to, so each local address has a
 * socket of its own, and each transfer answers from the address that was asked.
 */
export class TftpServer {
  readonly #options: TftpServerOptions;
  readonly #limits: TftpLimits;
  readonly #listeners = new Map<string, Socket>();
  /** By local address and the client's address and port: a client has one transfer at a time on a port. */
  readonly #deliveries = new Map<string, Delivery>();
  readonly #perPeer = new Map<string, number>();
  #port: number;
  #rescan: NodeJS.Timeout | undefined;
  #stopped = false;

  private constructor(options: TftpServerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#port = options.port;
  }

  /**
   * Resolves when every address is bound.
   * @throws AgentError E_IO when an address cannot be bound; nothing is left open then.
   */
  static async start(options: TftpServerOptions): Promise<TftpServer> {
    const server = new TftpServer(options);
    try {
      await server.#bindAll();
    } catch (error) {
      server.stop();
      throw error;
    }
    return server;
  }

  /** The port that is bound, on every address. */
  get port(): number {
    return this.#port;
  }

  /** Local addresses that are listened on now. */
  get addresses(): string[] {
    return [...this.#listeners.keys()];
  }

  /** Running transfers. */
  get transfers(): number {
    return this.#deliveries.size;
  }

  /** Frees the port at once; running transfers are told and end. Idempotent. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    clearInterval(this.#rescan);
    for (const delivery of [...this.#deliveries.values()]) delivery.end("The server was stopped");
    for (const socket of this.#listeners.values()) socket.close();
    this.#listeners.clear();
  }

  async #bindAll(): Promise<void> {
    const { addresses, wildcard } = await boundAddresses(this.#options.hosts);
    for (const address of addresses) await this.#listen(address, wildcard);
    if (this.#listeners.size === 0) throw new AgentError("E_IO", "no local address to listen on");
    if (!wildcard) return;
    // A wildcard also means the addresses that come later, when a cable is plugged in.
    this.#rescan = setInterval(() => {
      this.#followAddresses().catch((error: unknown) => this.#options.log.warn(toAgentError(error).message));
    }, 5_000).unref();
  }

  async #followAddresses(): Promise<void> {
    const { addresses } = await boundAddresses(this.#options.hosts);
    for (const [address, socket] of this.#listeners) {
      if (addresses.includes(address)) continue;
      this.#listeners.delete(address);
      socket.close();
    }
    for (const address of addresses) if (!this.#listeners.has(address)) await this.#listen(address, true);
  }

  async #listen(address: string, mayBeMissing: boolean): Promise<void> {
    const socket = createUdpSocket(address);
    try {
      await bindUdp(socket, address, this.#port);
    } catch (error) {
      socket.close();
      // An IPv6 address that is still being checked for duplicates cannot be bound yet.
      if (mayBeMissing && (error as NodeJS.ErrnoException).code === "EADDRNOTAVAIL") return;
      throw listenError(error, address, this.#port);
    }
    if (this.#stopped) return void socket.close();
    this.#port = socket.address().port;
    this.#listeners.set(address, socket);
    socket.on("message", (packet, from) => this.#onPacket(socket, address, packet, from));
    // ICMP errors of clients that went away.
    socket.on("error", (error) => this.#options.log.debug(`TFTP socket ${address}: ${error.message}`));
  }

  #onPacket(socket: Socket, local: string, bytes: Uint8Array, from: RemoteInfo): void {
    // An ERROR is never answered with an ERROR (RFC 1350 section 7), and port 0 cannot be answered at all.
    if ((bytes[0] === 0 && bytes[1] === opcode.error) || from.port === 0) return;
    const packet = parsePacket(bytes);
    const refuse = (code: ErrorCode, message: string) => {
      this.#options.log.debug(`TFTP request of ${hostPort(from.address, from.port)} refused: ${message}`);
      // The address may have gone while a file was looked for.
      if (this.#listeners.get(local) !== socket) return;
      socket.send(buildError(code, message), from.port, from.address);
    };
    switch (packet.op) {
      case "rrq":
        return this.#onRequest(packet, local, from, refuse);
      case "wrq":
        return refuse(errorCode.illegalOperation, "Write requests are not supported");
      case "malformed":
        return refuse(errorCode.illegalOperation, packet.reason);
      case "data":
      case "ack":
      case "oack":
      case "error":
        return refuse(errorCode.illegalOperation, "Not a request");
    }
  }

  #onRequest(request: Request, local: string, from: RemoteInfo, refuse: (code: ErrorCode, text: string) => void): void {
    const { filename, mode } = request;
    if (mode !== "octet" && mode !== "netascii") {
      return refuse(errorCode.illegalOperation, `Mode ${mode.slice(0, 20)} is not supported`);
    }
    if (filename.length > nameLimit) return refuse(errorCode.undefined, "The file name is too long");
    const key = `${local} ${from.address} ${from.port}`;
    const former = this.#deliveries.get(key);
    if (former !== undefined && !this.#givesWay(former, request)) return;
    const count = this.#perPeer.get(from.address) ?? 0;
    if (this.#deliveries.size >= this.#limits.transfers || count >= this.#limits.transfersPerPeer) {
      return refuse(errorCode.undefined, "Too many transfers, try again later");
    }
    const delivery = new Delivery({
      request,
      local,
      peer: from,
      root: this.#options.root,
      windowLimit: this.#limits.windowSize,
      silenceMs: this.#limits.silenceMs,
      totalMs: this.#limits.totalMs,
      log: this.#options.log,
      refuse,
      onEnd: () => {
        if (this.#deliveries.get(key) === delivery) this.#deliveries.delete(key);
        const left = (this.#perPeer.get(from.address) ?? 1) - 1;
        if (left > 0) this.#perPeer.set(from.address, left);
        else this.#perPeer.delete(from.address);
      },
    });
    this.#deliveries.set(key, delivery);
    this.#perPeer.set(from.address, count + 1);
    delivery.begin();
  }

  /**
   * A second request from the same port is the first one repeated, or it comes from a client that began anew
   * (a board that was reset, `get` after `get` in one tftp session).
   * @returns whether the new one shall be served; the former is over then.
   */
  #givesWay(former: Delivery, request: Request): boolean {
    const isSame = former.request.filename === request.filename && former.request.mode === request.mode;
    if (isSame && former.unanswered) {
      former.repeatFirst();
      return false;
    }
    // A copy that came late must not end a transfer that runs well.
    if (isSame && !former.quiet) return false;
    former.end();
    return true;
  }
}
