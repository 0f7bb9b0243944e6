import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";
import { constants } from "node:os";
import { loadUdp, segmentsPerMessage, type RunSender, type UdpCalls } from "../../agent/sys/udp.ts";
import { buildError, errorCode, opcode } from "./protocol.ts";

export interface TransferSocketOptions {
  /** The local address that was asked, from which the answers come. */
  readonly local: string;
  readonly peer: { readonly address: string; readonly port: number };
  /** In packets; one alone gains nothing by the fast path. */
  readonly windowSize: number;
  /** Largest packet, sent or received. */
  readonly packetBytes: number;
  /** Takes what the peer sends. */
  readonly onPacket: (packet: Buffer) => void;
  readonly onError: (error: Error) => void;
}

/** The port of one transfer. What comes from anyone but its peer is answered here, and nobody else hears of it. */
export interface TransferSocket {
  /** Sends packets that lie side by side, each of `strideBytes` but perhaps the last; without it, a single one. */
  send(packets: Uint8Array, strideBytes?: number): void;
  close(): void;
}

/** Makes the sockets of transfers. */
export class TransferSockets {
  readonly #onlyDgram: boolean;
  #udp: Promise<UdpCalls | undefined> | undefined;

  /** @param onlyDgram every packet goes through Node's dgram; else runs of them go out with one system call */
  constructor({ onlyDgram = false } = {}) {
    this.#onlyDgram = onlyDgram;
  }

  async open(options: TransferSocketOptions): Promise<TransferSocket> {
    const { local, peer, windowSize, packetBytes, onPacket, onError } = options;
    // Loaded for the first window that is agreed on; where it cannot be, dgram serves.
    this.#udp ??= this.#onlyDgram || windowSize === 1 ? undefined : loadUdp().catch(() => undefined);
    const udp = windowSize === 1 ? undefined : await this.#udp;
    const socket = createUdpSocket(local);
    let runs: RunSender | undefined;
    try {
      if (udp === undefined) await bindUdp(socket, local, 0);
      else {
        const fd = udp.bind(local, 0);
        // dgram closes it from now on.
        socket.bind({ fd });
        runs = udp.sender(fd, peer.address, peer.port);
      }
      makeRoom(socket, windowSize * packetBytes);
    } catch (error) {
      socket.close();
      throw error;
    }
    socket.on("message", (packet, from) => {
      if (from.port === peer.port && from.address === peer.address) onPacket(packet);
      // A stranger is told so and the transfer goes on (RFC 1350 section 4); an ERROR is never answered.
      else if (packet[1] !== opcode.error && from.port !== 0) {
        socket.send(buildError(errorCode.unknownTransferId, "Unknown transfer ID"), from.port, from.address);
      }
    });
    socket.on("error", onError);
    return new PeerSocket(socket, peer, runs);
  }
}

/** Errors of a socket whose send buffer is full. */
const fullErrors = [-constants.errno.EAGAIN, -constants.errno.ENOBUFS];

class PeerSocket implements TransferSocket {
  readonly #socket: Socket;
  readonly #peer: { readonly address: string; readonly port: number };
  #runs: RunSender | undefined;
  #mayBeSegmented = true;

  constructor(socket: Socket, peer: { readonly address: string; readonly port: number }, runs: RunSender | undefined) {
    this.#socket = socket;
    this.#peer = peer;
    this.#runs = runs;
  }

  send(packets: Uint8Array, strideBytes = packets.length): void {
    const sentBytes = packets.length > strideBytes ? this.#sendRun(packets, strideBytes) : 0;
    const { address, port } = this.#peer;
    for (let offset = sentBytes; offset < packets.length; offset += strideBytes) {
      // Without a callback, a send that fails is a lost packet, and treated as one.
      this.#socket.send(packets.subarray(offset, offset + strideBytes), port, address);
    }
  }

  /**
   * Sends what it can by the quickest way that works on this path, and remembers which one does not. When the send
   * buffer is full it leaves the rest to dgram, which waits for room, and everything until that has gone.
   * @returns how many bytes need not be sent any more
   */
  #sendRun(packets: Uint8Array, strideBytes: number): number {
    let sentBytes = 0;
    while (this.#runs !== undefined && sentBytes < packets.length && this.#socket.getSendQueueCount() === 0) {
      const segments = this.#mayBeSegmented ? segmentsPerMessage(strideBytes) : 1;
      const sent = this.#runs.send(packets.subarray(sentBytes), strideBytes, segments);
      if (sent > 0) sentBytes += sent * strideBytes;
      else if (fullErrors.includes(sent)) break;
      else if (segments > 1) this.#mayBeSegmented = false;
      else this.#runs = undefined;
    }
    return sentBytes;
  }

  close(): void {
    // The descriptor may soon be someone else's.
    this.#runs = undefined;
    this.#socket.close();
  }
}

/** What the kernel counts for a packet beside its bytes, about. */
const packetOverhead = 2;

/** Two windows fit: one that is sent again may follow at once. The system may allow less; then it is less. */
function makeRoom(socket: Socket, windowBytes: number): void {
  const wanted = 2 * windowBytes * packetOverhead;
  if (socket.getSendBufferSize() < wanted) socket.setSendBufferSize(wanted);
  if (socket.getRecvBufferSize() < wanted) socket.setRecvBufferSize(wanted);
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
