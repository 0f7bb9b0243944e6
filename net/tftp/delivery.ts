import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";
import { hostPort } from "../addresses.ts";
import { openInFolders, type Refusal, type ServedFile } from "../files.ts";
import type { RunningTransfer } from "../transfers.ts";
import { BlockQueue, toNetascii } from "./blocks.ts";
import { negotiate, type Terms } from "./options.ts";
import { buildError, buildOack, errorCode, opcode, type ErrorCode, type Request } from "./protocol.ts";
import { Transfer, type Outcome } from "./transfer.ts";
import type { TftpLimits, TftpView } from "./view.ts";

export interface DeliveryOptions {
  readonly request: Request;
  /** The local address that was asked, from which the answer comes. */
  readonly local: string;
  readonly peer: RemoteInfo;
  readonly view: TftpView;
  readonly limits: TftpLimits;
  /** Answers with an ERROR from the port that was asked. */
  readonly refuse: (code: ErrorCode, message: string) => void;
  /** Called once, when nothing is left of it. */
  readonly onEnd: () => void;
}

const refusals: Readonly<Record<Refusal, readonly [ErrorCode, string]>> = {
  missing: [errorCode.fileNotFound, "File not found"],
  folder: [errorCode.fileNotFound, "Not a file"],
  special: [errorCode.fileNotFound, "Not a file"],
  outside: [errorCode.accessViolation, "Access violation"],
  forbidden: [errorCode.accessViolation, "Access violation"],
};

/** One read request on its way: opens the file, agrees on the terms, and runs the transfer on a port of its own. */
export class Delivery {
  readonly #options: DeliveryOptions;
  readonly #what: string;
  #socket: Socket | undefined;
  #transfer: Transfer | undefined;
  #ended = false;
  #sizeBytes: number | undefined;
  #blockSizeBytes = 0;
  readonly #startedMs = performance.now();

  constructor(options: DeliveryOptions) {
    this.#options = options;
    const { request, peer } = options;
    this.#what = `TFTP ${JSON.stringify(request.filename.slice(0, 255))} to ${hostPort(peer.address, peer.port)}`;
  }

  get request(): Request {
    return this.#options.request;
  }

  get view(): TftpView {
    return this.#options.view;
  }

  /** Address of the client. */
  get peer(): string {
    return this.#options.peer.address;
  }

  progress(): RunningTransfer {
    const { request, peer, view } = this.#options;
    return {
      protocol: "tftp",
      view: view.name,
      peer: hostPort(peer.address, peer.port),
      name: request.filename,
      direction: "to-board",
      sizeBytes: this.#sizeBytes,
      movedBytes: Math.min((this.#transfer?.acknowledged ?? 0) * this.#blockSizeBytes, this.#sizeBytes ?? Infinity),
      startedMs: this.#startedMs,
    };
  }

  /** True until the client has answered for the first time. */
  get unanswered(): boolean {
    return this.#transfer?.unanswered ?? true;
  }

  /** True if the client may have gone. */
  get quiet(): boolean {
    return this.#transfer?.quiet ?? false;
  }

  /** Sends the first packet again, if it has been sent. */
  repeatFirst(): void {
    this.#transfer?.repeatFirst();
  }

  /** Begins; all that can go wrong is told to the client and the log. */
  begin(): void {
    this.#begin().catch((error: unknown) => {
      if (this.#ended) return;
      this.#options.view.log.warn(`${this.#what}: ${error instanceof Error ? error.message : String(error)}`);
      this.#options.refuse(errorCode.undefined, "The server cannot send the file now");
      this.end();
    });
  }

  /** Ends it at once, with a word to the client if there is one to say. Idempotent. */
  end(message?: string): void {
    if (this.#ended) return;
    if (message !== undefined) this.#socket?.send(buildError(errorCode.undefined, message), ...this.#target);
    this.#ended = true;
    this.#transfer?.close();
    this.#socket?.close();
    this.#options.onEnd();
  }

  get #target(): [port: number, address: string] {
    return [this.#options.peer.port, this.#options.peer.address];
  }

  async #begin(): Promise<void> {
    const { request, view, limits, refuse } = this.#options;
    const file = await openInFolders(view.roots, request.filename);
    if ("refused" in file) {
      if (this.#ended) return;
      // A name from the top that is not below the folder may have meant the host's own tree.
      const isAbsolute = request.filename.startsWith("/") && file.refused === "missing";
      const [code, text] = refusals[isAbsolute ? "outside" : file.refused];
      view.log.info(`${this.#what}: ${text}`);
      refuse(code, text);
      return this.end();
    }
    const sizeBytes = request.mode === "netascii" ? undefined : file.sizeBytes;
    const terms = negotiate(request.options, { sizeBytes, windowLimit: limits.windowSize });
    if (this.#ended || "refused" in terms) {
      await file.handle.close();
      if ("refused" in terms && !this.#ended) refuse(errorCode.optionRefused, terms.refused);
      return this.end();
    }
    await this.#run(file, terms);
  }

  async #run(file: ServedFile, terms: Terms): Promise<void> {
    const { request, local, peer, limits } = this.#options;
    const { silenceMs, totalMs } = limits;
    const { blockSizeBytes, windowSize, accepted } = terms;
    const blocks = new BlockQueue({
      file: file.handle,
      sizeBytes: file.sizeBytes,
      blockSizeBytes,
      windowSize,
      translate: request.mode === "netascii" ? toNetascii : undefined,
      onReady: (failure) => transfer.ready(failure),
    });
    const socket = createUdpSocket(local);
    const [port, address] = this.#target;
    const beganMs = performance.now();
    const transfer = new Transfer({
      blocks,
      windowSize,
      oack: accepted.length === 0 ? undefined : buildOack(accepted),
      // Without a callback, a send that fails is a lost packet, and treated as one.
      send: (packet) => socket.send(packet, port, address),
      onEnd: (outcome) => {
        this.#report(outcome, { terms, sizeBytes: file.sizeBytes, repeats: transfer.repeats, beganMs });
        this.end();
      },
      silenceMs,
      totalMs,
    });
    this.#socket = socket;
    this.#transfer = transfer;
    this.#sizeBytes = file.sizeBytes;
    this.#blockSizeBytes = blockSizeBytes;
    socket.on("message", (packet, from) => {
      if (from.port === port && from.address === peer.address) transfer.receive(packet);
      // A stranger is told so and the transfer goes on (RFC 1350 section 4); an ERROR is never answered.
      else if (packet[1] !== opcode.error && from.port !== 0) {
        socket.send(buildError(errorCode.unknownTransferId, "Unknown transfer ID"), from.port, from.address);
      }
    });
    await bindUdp(socket, local, 0);
    socket.on("error", (error) => transfer.abort("The server's socket failed", error.message));
    if (!this.#ended) transfer.start();
  }

  #report(outcome: Outcome, of: { terms: Terms; sizeBytes: number; repeats: number; beganMs: number }): void {
    const { log } = this.#options.view;
    if (outcome.kind === "refused") {
      return log.info(`${this.#what}: ended by the client: ${JSON.stringify(outcome.message.slice(0, 255))}`);
    }
    if (outcome.kind === "failed") return log.warn(`${this.#what}: ${outcome.reason}`);
    const seconds = (performance.now() - of.beganMs) / 1000;
    log.info(
      `${this.#what}: ${of.sizeBytes} bytes in ${seconds.toFixed(2)} s ` +
        `(${(of.sizeBytes / 1e6 / Math.max(seconds, 0.001)).toFixed(1)} MB/s), ` +
        `blksize ${of.terms.blockSizeBytes}, windowsize ${of.terms.windowSize}, ${of.repeats} blocks repeated`,
    );
  }
}

/** A socket for numeric addresses: dgram's own look-up would put every packet off to the next tick. */
export function createUdpSocket(address: string): Socket {
  const type = isIPv6(address) ? "udp6" : "udp4";
  const lookup = (
    host: string,
    _options: unknown,
    callback: (error: Error | null, address: string, family: number) => void,
  ) => callback(null, host, 0);
  return createSocket({ type, lookup, ipv6Only: type === "udp6" });
}

export async function bindUdp(socket: Socket, address: string, port: number): Promise<void> {
  const listening = once(socket, "listening");
  socket.bind({ address, port, exclusive: true });
  await listening;
}
