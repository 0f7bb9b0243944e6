import type { RemoteInfo } from "node:dgram";
import { hostPort } from "../addresses.ts";
import type { EndedTransfer, RunningTransfer } from "../../agent/driver/shown.ts";
import { prepareAcceptance } from "./acceptance.ts";
import { prepareDelivery } from "./delivery.ts";
import type { Asked, Machine, Prepared } from "./machine.ts";
import type { Outcome } from "./outcome.ts";
import { buildError, errorCode, headerBytes, type ErrorCode, type Request } from "./protocol.ts";
import type { TransferSocket, TransferSockets } from "./socket.ts";
import type { TftpView } from "./view.ts";

export interface ExchangeOptions extends Asked {
  /** The local address that was asked, from which the answer comes. */
  readonly local: string;
  readonly peer: RemoteInfo;
  readonly sockets: TransferSockets;
  /** Answers with an ERROR from the port that was asked. */
  readonly refuse: (code: ErrorCode, message: string) => void;
  /** Called once, when nothing is left of it. */
  readonly onEnd: () => void;
}

/** One request from its arrival to its end, on a port of its own. */
export class Exchange {
  readonly #options: ExchangeOptions;
  readonly #what: string;
  readonly #startedMs = performance.now();
  #socket: TransferSocket | undefined;
  #machine: Machine | undefined;
  #sizeBytes: number | undefined;
  #ended = false;
  /** Whether the view knows how it ended. */
  #told = false;

  constructor(options: ExchangeOptions) {
    this.#options = options;
    const { request, peer } = options;
    const way = request.op === "rrq" ? "to" : "from";
    this.#what = `TFTP ${JSON.stringify(request.filename.slice(0, 255))} ${way} ${hostPort(peer.address, peer.port)}`;
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
      direction: request.op === "rrq" ? "to-board" : "from-board",
      sizeBytes: this.#sizeBytes,
      movedBytes: Math.min(this.#machine?.movedBytes ?? 0, this.#sizeBytes ?? Infinity),
      startedMs: this.#startedMs,
    };
  }

  /** True until the client has answered for the first time. */
  get unanswered(): boolean {
    return this.#machine?.unanswered ?? true;
  }

  /** True if the client may have gone. */
  get quiet(): boolean {
    return this.#machine?.quiet ?? false;
  }

  /** The file has arrived; only a repeated last block is still answered. */
  get lingering(): boolean {
    return this.#machine?.lingering ?? false;
  }

  /** Sends the first packet again, if it has been sent. */
  repeatFirst(): void {
    this.#machine?.repeatFirst();
  }

  /** Begins; all that can go wrong is told to the client and the log. */
  begin(): void {
    this.#begin().catch((error: unknown) => {
      if (this.#ended) return;
      this.#options.view.log.warn(`${this.#what}: ${error instanceof Error ? error.message : String(error)}`);
      this.#tell("failed");
      this.#options.refuse(errorCode.undefined, "The server cannot do this now");
      this.end();
    });
  }

  /** Ends it at once, with a word to the client if there is one to say. Idempotent. */
  end(message?: string): void {
    if (this.#ended) return;
    this.#ended = true;
    // Whoever began anew, or whose server was stopped, has not come to an outcome.
    this.#tell("aborted");
    // Whose file has arrived is not told that anything failed.
    if (message !== undefined && !this.lingering) this.#socket?.send(buildError(errorCode.undefined, message));
    this.#machine?.close();
    this.#socket?.close();
    this.#options.onEnd();
  }

  async #begin(): Promise<void> {
    const { request, view, refuse } = this.#options;
    const prepare = request.op === "rrq" ? prepareDelivery : prepareAcceptance;
    const prepared = await prepare(this.#options);
    if (!("refused" in prepared)) return this.#run(prepared);
    if (this.#ended) return;
    view.log.info(`${this.#what}: ${prepared.refused[1]}`);
    this.#tell("refused");
    refuse(...prepared.refused);
    this.end();
  }

  async #run(prepared: Prepared): Promise<void> {
    const { local, peer, sockets } = this.#options;
    const { terms, sizeBytes } = prepared;
    let machine: Machine | undefined;
    try {
      if (this.#ended) return;
      const socket = await sockets.open({
        local,
        peer,
        windowSize: terms.windowSize,
        packetBytes: headerBytes + terms.blockSizeBytes,
        onPacket: (packet) => machine?.receive(packet),
        onError: (error) => machine?.abort("The server's socket failed", error.message),
      });
      if (this.#ended) return socket.close();
      this.#socket = socket;
      machine = prepared.run({
        send: (packets, strideBytes) => socket.send(packets, strideBytes),
        onOutcome: (outcome) => this.#report(outcome, prepared),
        onEnd: () => this.end(),
      });
      this.#machine = machine;
      this.#sizeBytes = sizeBytes;
      machine.start();
    } finally {
      if (machine === undefined) await prepared.discard();
    }
  }

  #tell(outcome: EndedTransfer["outcome"]): void {
    if (this.#told) return;
    this.#told = true;
    const { protocol, direction, movedBytes } = this.progress();
    this.#options.view.ended?.({ protocol, direction, movedBytes, outcome });
  }

  #report(outcome: Outcome, { terms }: Prepared): void {
    this.#tell(outcome.kind === "refused" ? "aborted" : outcome.kind);
    const { log } = this.#options.view;
    if (outcome.kind === "refused") {
      return log.info(`${this.#what}: ended by the client: ${JSON.stringify(outcome.message.slice(0, 255))}`);
    }
    if (outcome.kind === "failed") return log.warn(`${this.#what}: ${outcome.reason}`);
    const { movedBytes } = this.progress();
    const seconds = (performance.now() - this.#startedMs) / 1000;
    log.info(
      `${this.#what}: ${movedBytes} bytes in ${seconds.toFixed(2)} s ` +
        `(${(movedBytes / 1e6 / Math.max(seconds, 0.001)).toFixed(1)} MB/s), ` +
        `blksize ${terms.blockSizeBytes}, windowsize ${terms.windowSize}, ${this.#machine?.repeats ?? 0} blocks repeated`,
    );
  }
}
