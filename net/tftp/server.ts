import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { boundAddresses, hostPort, listenError } from "../addresses.ts";
import { openConfined, type Refusal } from "../files.ts";
import { BlockQueue, toNetascii } from "./blocks.ts";
import { negotiate } from "./options.ts";
import { buildError, buildOack, errorCode, opcode, parsePacket, type ErrorCode, type Request } from "./protocol.ts";
import { Transfer, type Outcome } from "./transfer.ts";

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

const refusals: Readonly<Record<Refusal, readonly [ErrorCode, string]>> = {
  missing: [errorCode.fileNotFound, "File not found"],
  folder: [errorCode.fileNotFound, "Not a file"],
  special: [errorCode.fileNotFound, "Not a file"],
  outside: [errorCode.accessViolation, "Access violation"],
  forbidden: [errorCode.accessViolation, "Access violation"],
};

/** A running transfer, or one whose file is just being opened. */
interface Entry {
  readonly request: Request;
  readonly peer: string;
  transfer: Transfer | undefined;
  /** Frees the socket and the slot; without a word to the client. */
  drop: () => void;
  gone: boolean;
}

/**
 * A read-only TFTP server. dgram cannot tell which local address a packet was sent to, so each local address has a
 * socket of its own, and each transfer answers from the address that was asked.
 */
export class TftpServer {
  readonly #options: TftpServerOptions;
  readonly #limits: TftpLimits;
  readonly #listeners = new Map<string, Socket>();
  /** By local address and the client's address and port: a client has one transfer at a time on a port. */
  readonly #entries = new Map<string, Entry>();
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
    return this.#entries.size;
  }

  /** Frees the port at once; running transfers are told and end. Idempotent. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    clearInterval(this.#rescan);
    for (const entry of [...this.#entries.values()]) {
      entry.transfer?.abort("The server was stopped");
      entry.drop();
    }
    for (const socket of this.#listeners.values()) socket.close();
    this.#listeners.clear();
  }

  async #bindAll(): Promise<void> {
    const { addresses, wildcard } = await boundAddresses(this.#options.hosts);
    for (const address of addresses) await this.#listen(address, wildcard);
    if (this.#listeners.size === 0) throw new AgentError("E_IO", "no local address to listen on");
    if (!wildcard) return;
    // A wildcard also means the addresses that come later, when a cable is plugged in.
    this.#rescan = setInterval(() => void this.#followAddresses(), 5_000).unref();
  }

  async #followAddresses(): Promise<void> {
    const { addresses } = await boundAddresses(this.#options.hosts);
    for (const [address, socket] of this.#listeners) {
      if (addresses.includes(address)) continue;
      this.#listeners.delete(address);
      socket.close();
    }
    for (const address of addresses) {
      if (this.#listeners.has(address)) continue;
      await this.#listen(address, true).catch((error: unknown) => {
        this.#options.log.warn(error instanceof Error ? error.message : String(error));
      });
    }
  }

  async #listen(address: string, mayBeMissing: boolean): Promise<void> {
    const socket = socketFor(address);
    try {
      await bind(socket, address, this.#port);
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
    // An ERROR is never answered with an ERROR (RFC 1350 section 7).
    if (bytes[0] === 0 && bytes[1] === opcode.error) return;
    const packet = parsePacket(bytes);
    const refuse = (code: ErrorCode, message: string) => {
      this.#options.log.debug(`TFTP request of ${hostPort(from.address, from.port)} refused: ${message}`);
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
    const former = this.#entries.get(key);
    if (former !== undefined && !this.#replace(former, request)) return;
    const count = this.#perPeer.get(from.address) ?? 0;
    if (this.#entries.size >= this.#limits.transfers || count >= this.#limits.transfersPerPeer) {
      return refuse(errorCode.undefined, "Too many transfers, try again later");
    }
    const entry: Entry = { request, peer: from.address, transfer: undefined, drop: () => {}, gone: false };
    this.#entries.set(key, entry);
    this.#perPeer.set(from.address, count + 1);
    entry.drop = () => {
      if (entry.gone) return;
      entry.gone = true;
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
      const left = (this.#perPeer.get(from.address) ?? 1) - 1;
      if (left > 0) this.#perPeer.set(from.address, left);
      else this.#perPeer.delete(from.address);
    };
    this.#begin(entry, local, from, refuse).catch((error: unknown) => {
      const reason = error instanceof Error ? error.message : String(error);
      this.#options.log.warn(`TFTP ${JSON.stringify(filename)}: ${reason}`);
      if (!entry.gone) refuse(errorCode.undefined, "The server cannot open the file now");
      entry.drop();
    });
  }

  /**
   * A second request from the same port is the first one repeated, or it comes from a client that began anew
   * (a board that was reset, `get` after `get` in one tftp session).
   * @returns whether it shall be served; the former transfer is over then.
   */
  #replace(former: Entry, request: Request): boolean {
    const { transfer } = former;
    const isSame = former.request.filename === request.filename && former.request.mode === request.mode;
    if (isSame && (transfer === undefined || transfer.unanswered)) {
      transfer?.repeatFirst();
      return false;
    }
    // A copy that came late must not end a transfer that runs well.
    if (isSame && transfer?.quiet === false) return false;
    former.drop();
    return true;
  }

  async #begin(
    entry: Entry,
    local: string,
    peer: RemoteInfo,
    refuse: (code: ErrorCode, text: string) => void,
  ): Promise<void> {
    const { filename, mode, options } = entry.request;
    const file = await openConfined(this.#options.root, filename);
    if ("refused" in file) {
      // A name from the top that is not below the folder may have meant the host's own tree.
      const isAbsolute = filename.startsWith("/") && file.refused === "missing";
      const [code, text] = refusals[isAbsolute ? "outside" : file.refused];
      if (!entry.gone) {
        this.#options.log.info(`TFTP ${hostPort(peer.address, peer.port)} asked for ${quote(filename)}: ${text}`);
        refuse(code, text);
      }
      return entry.drop();
    }
    const netascii = mode === "netascii";
    const terms = negotiate(options, {
      sizeBytes: netascii ? undefined : file.sizeBytes,
      windowLimit: this.#limits.windowSize,
    });
    if (entry.gone || "refused" in terms) {
      await file.handle.close();
      if (!entry.gone && "refused" in terms) refuse(errorCode.optionRefused, terms.refused);
      return entry.drop();
    }

    const socket = socketFor(local);
    const blocks = new BlockQueue({
      file: file.handle,
      sizeBytes: file.sizeBytes,
      blockSizeBytes: terms.blockSizeBytes,
      windowSize: terms.windowSize,
      translate: netascii ? toNetascii : undefined,
      onReady: (failure) => transfer.ready(failure),
    });
    const beganMs = performance.now();
    const transfer = new Transfer({
      blocks,
      windowSize: terms.windowSize,
      oack: terms.accepted.length === 0 ? undefined : buildOack(terms.accepted),
      // Without a callback a failing send is as good as a lost packet, which is what it is.
      send: (packet) => socket.send(packet, peer.port, peer.address),
      onEnd: (outcome) => {
        entry.drop();
        this.#report(outcome, filename, peer, { terms, repeats: transfer.repeats, beganMs, sizeBytes: file.sizeBytes });
      },
      silenceMs: this.#limits.silenceMs,
      totalMs: this.#limits.totalMs,
    });
    const release = entry.drop;
    entry.drop = () => {
      if (entry.gone) return;
      release();
      transfer.drop();
      socket.close();
    };
    socket.on("error", (error) => transfer.abort("Server error", error.message));
    socket.on("message", (packet, from) => {
      if (from.port === peer.port && from.address === peer.address) transfer.receive(packet);
      // A stranger: told so, and the transfer goes on (RFC 1350 section 4). ERRORs are not answered.
      else if (packet[1] !== opcode.error) {
        socket.send(buildError(errorCode.unknownTransferId, "Unknown transfer ID"), from.port, from.address);
      }
    });
    await bind(socket, local, 0);
    if (entry.gone) return;
    entry.transfer = transfer;
    transfer.start();
  }

  #report(
    outcome: Outcome,
    filename: string,
    peer: RemoteInfo,
    of: { terms: { blockSizeBytes: number; windowSize: number }; repeats: number; beganMs: number; sizeBytes: number },
  ): void {
    const { log } = this.#options;
    const seconds = (performance.now() - of.beganMs) / 1000;
    const what = `TFTP ${quote(filename)} to ${hostPort(peer.address, peer.port)}`;
    if (outcome.kind === "complete") {
      const rate = (of.sizeBytes / 1e6 / Math.max(seconds, 0.001)).toFixed(1);
      log.info(
        `${what}: ${of.sizeBytes} bytes in ${seconds.toFixed(2)} s (${rate} MB/s), blksize ${of.terms.blockSizeBytes}, ` +
          `windowsize ${of.terms.windowSize}, ${of.repeats} blocks repeated`,
      );
    } else if (outcome.kind === "refused") log.info(`${what}: ended by the client: ${quote(outcome.message)}`);
    else log.warn(`${what}: ${outcome.reason}`);
  }
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 255));
}

/**
 * Addresses are numeric by now. dgram's own look-up would put every packet off to the next tick; this one answers
 * at once.
 */
function socketFor(address: string): Socket {
  const type = isIPv6(address) ? "udp6" : "udp4";
  const lookup = (
    host: string,
    _options: unknown,
    callback: (e: Error | null, address: string, family: number) => void,
  ) => callback(null, host, 0);
  return createSocket({ type, lookup, ipv6Only: type === "udp6" });
}

async function bind(socket: Socket, address: string, port: number): Promise<void> {
  const listening = once(socket, "listening");
  socket.bind({ address, port, exclusive: true });
  await listening;
}
