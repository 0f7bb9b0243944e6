import type { RemoteInfo } from "node:dgram";
import { hostPort } from "../addresses.ts";
import { SharedPort, type Listener, type ServedView } from "../shared-port.ts";
import type { RunningTransfer } from "../../agent/driver/shown.ts";
import { Exchange } from "./exchange.ts";
import { buildError, errorCode, opcode, parsePacket, type ErrorCode, type Request } from "./protocol.ts";
import { bindUdp, createUdpSocket, TransferSockets } from "./socket.ts";
import { defaultLimits, type TftpView } from "./view.ts";

/** Requests with longer names are refused before the disk is asked. */
const nameLimit = 255;

/** What a packet that arrived at the port can be answered with. */
interface Asked {
  /** The local address that was asked. */
  readonly local: string;
  readonly from: RemoteInfo;
  readonly served: ServedView<TftpView>;
  readonly refuse: (code: ErrorCode, text: string) => void;
}

/**
 * A TFTP server on one port. dgram cannot tell which local address a packet was sent to, so each local
 * address has a socket of its own, and each transfer answers from the address that was asked.
 */
export class TftpServer {
  readonly #port: SharedPort<TftpView>;
  /** By local address and the client's address and port: a client has one transfer at a time on a port. */
  readonly #exchanges = new Map<string, Exchange>();
  readonly #sockets: TransferSockets;

  /**
   * @param port 0 lets the system choose; all addresses then share the port
   * @param sockets how transfers send; the default uses what this host is capable of
   */
  constructor(port: number, sockets = new TransferSockets()) {
    this.#sockets = sockets;
    this.#port = new SharedPort(port, (address, at) => this.#listen(address, at));
  }

  /** The port that is bound, on every address. */
  get port(): number {
    return this.#port.port;
  }

  /** Local addresses that are listened on now. */
  get addresses(): string[] {
    return this.#port.addresses;
  }

  /** What is on its way now. */
  running(): RunningTransfer[] {
    return [...this.#exchanges.values()].filter(({ lingering }) => !lingering).map((exchange) => exchange.progress());
  }

  /**
   * Shows a view on these addresses or names; a wildcard (`0.0.0.0`, `::`) stands for every address of the host.
   * `stop` frees the port at once, if no other view is shown there; its transfers are told and end.
   * @throws AgentError E_IO when an address cannot be bound, or another view is shown to the same boards there.
   */
  async serve(view: TftpView, hosts: readonly string[]): Promise<{ readonly port: number; stop(): void }> {
    const served = await this.#port.serve(view, hosts);
    return {
      port: this.#port.port,
      stop: () => {
        served.stop();
        for (const exchange of [...this.#exchanges.values()]) {
          if (exchange.view === view) exchange.end("The server was stopped");
        }
      },
    };
  }

  async #listen(address: string, port: number): Promise<Listener> {
    const socket = createUdpSocket(address);
    try {
      await bindUdp(socket, address, port);
    } catch (error) {
      socket.close();
      throw error;
    }
    let open = true;
    const answer = (packet: Uint8Array, to: RemoteInfo) => {
      // The address may have gone while a file was looked for.
      if (open) socket.send(packet, to.port, to.address);
    };
    socket.on("message", (packet, from) => this.#onPacket(packet, address, from, answer));
    // ICMP errors of clients that went away.
    socket.on("error", () => {});
    return {
      port: socket.address().port,
      close: () => {
        open = false;
        socket.close();
      },
    };
  }

  #onPacket(
    bytes: Uint8Array,
    local: string,
    from: RemoteInfo,
    answer: (packet: Uint8Array, to: RemoteInfo) => void,
  ): void {
    // An ERROR is never answered with an ERROR (RFC 1350 section 7), and port 0 cannot be answered at all.
    if ((bytes[0] === 0 && bytes[1] === opcode.error) || from.port === 0) return;
    const packet = parsePacket(bytes);
    const served = this.#port.find(local, from.address);
    const refuse = (code: ErrorCode, message: string) => {
      served?.view.log.debug(`TFTP request of ${hostPort(from.address, from.port)} refused: ${message}`);
      answer(buildError(code, message), from);
    };
    switch (packet.op) {
      case "rrq":
      case "wrq":
        if (served === undefined) return refuse(errorCode.accessViolation, "Nothing is served to this address");
        return this.#onRequest(packet, { local, from, served, refuse });
      case "malformed":
        return refuse(errorCode.illegalOperation, packet.reason);
      case "data":
      case "ack":
      case "oack":
      case "error":
        return refuse(errorCode.illegalOperation, "Not a request");
    }
  }

  #onRequest(request: Request, { local, from, served, refuse }: Asked): void {
    const { filename, mode } = request;
    if (mode !== "octet" && mode !== "netascii") {
      return refuse(errorCode.illegalOperation, `Mode ${mode.slice(0, 20)} is not supported`);
    }
    if (filename.length > nameLimit) return refuse(errorCode.undefined, "The file name is too long");
    const key = `${local} ${from.address} ${from.port}`;
    const former = this.#exchanges.get(key);
    if (former !== undefined && !this.#givesWay(former, request)) return;
    const { view, run } = served;
    const limits = { ...defaultLimits, ...view.limits };
    const others = [...this.#exchanges.values()].filter((exchange) => exchange.view === view);
    const busy = others.filter((exchange) => !exchange.lingering);
    const ofPeer = busy.filter((exchange) => exchange.peer === from.address);
    if (busy.length >= limits.transfers || ofPeer.length >= limits.transfersPerPeer) {
      return refuse(errorCode.undefined, "Too many transfers, try again later");
    }
    // What lingers gives way, so that all of them together are bounded.
    if (others.length >= limits.transfers) others.find((exchange) => exchange.lingering)?.end();
    const exchange = new Exchange({
      request,
      local,
      peer: from,
      view,
      limits,
      sockets: this.#sockets,
      refuse,
      onEnd: () => {
        if (this.#exchanges.get(key) === exchange) this.#exchanges.delete(key);
      },
    });
    this.#exchanges.set(key, exchange);
    run(() => exchange.begin());
  }

  /**
   * A second request from the same port is the first one repeated, or it comes from a client that began anew
   * (a board that was reset, `get` after `get` in one tftp session).
   * @returns whether the new one shall be served; the former is over then.
   */
  #givesWay(former: Exchange, request: Request): boolean {
    const { op, filename, mode } = former.request;
    const isSame = op === request.op && filename === request.filename && mode === request.mode;
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
