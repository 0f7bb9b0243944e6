import type { RemoteInfo, Socket } from "node:dgram";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { LogBus } from "../../agent/driver/log.ts";
import {
  buildAck,
  buildData,
  buildError,
  buildRequest,
  parsePacket,
  type OptionList,
  type Packet,
} from "../../net/tftp/protocol.ts";
import { bindUdp, createUdpSocket, type TransferSockets } from "../../net/tftp/socket.ts";
import { TftpServer } from "../../net/tftp/server.ts";
import type { TftpLimits } from "../../net/tftp/view.ts";
import type { RunningTransfer } from "../../agent/driver/shown.ts";
import type { Uploads } from "../../net/uploads.ts";

/** A folder with these files, gone after the test. */
export async function folderWith(t: TestContext, files: Record<string, string | Buffer> = {}): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "jmp-agent-boot-"));
  t.after(() => rm(root, { recursive: true, force: true }));
  for (const [name, content] of Object.entries(files)) await writeFile(join(root, name), content);
  return root;
}

/** A TFTP server that shows one view. */
export interface ServedTftp {
  readonly port: number;
  readonly addresses: string[];
  /** Running transfers. */
  readonly transfers: number;
  running(): RunningTransfer[];
  stop(): void;
}

/** A TFTP server on a free loopback port, stopped after the test. */
export async function startTftp(
  t: TestContext,
  root: string,
  {
    hosts = ["127.0.0.1"],
    port = 0,
    limits = {},
    uploads,
    sockets,
  }: {
    hosts?: readonly string[];
    port?: number;
    limits?: Partial<TftpLimits>;
    uploads?: Uploads;
    sockets?: TransferSockets;
  } = {},
): Promise<ServedTftp> {
  const log = new LogBus().logger({ source: "driver", logger: "tftp" });
  const server = new TftpServer(port, sockets);
  const served = await server.serve({ name: "test", roots: [root], boards: [], log, limits, uploads }, hosts);
  t.after(() => served.stop());
  return {
    ...served,
    running: () => server.running(),
    get addresses() {
      return server.addresses;
    },
    get transfers() {
      return server.running().length;
    },
  };
}

/** Resolves when `holds` does. */
export async function until(holds: () => boolean, limitMs = 10_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`not within ${limitMs} ms: ${holds.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

type Received = { packet: Packet; port: number; address: string };

/** One UDP port of a client that says exactly what a test wants it to say. */
export class TftpPeer {
  readonly #socket: Socket;
  readonly #server: { port: number; address: string };
  readonly #inbox: Received[] = [];
  #wake: (() => void) | undefined;
  /** Where answers go: the port that the server sent from last. */
  transferPort: number | undefined;

  private constructor(socket: Socket, server: { port: number; address: string }) {
    this.#socket = socket;
    this.#server = server;
    socket.on("message", (bytes: Buffer, from: RemoteInfo) => {
      this.#inbox.push({ packet: parsePacket(Uint8Array.from(bytes)), port: from.port, address: from.address });
      this.#wake?.();
    });
  }

  /** @param from the local address of the client */
  static async open(t: TestContext, port: number, address = "127.0.0.1", from = address): Promise<TftpPeer> {
    // Sends at once, so that a last ACK is out before the socket is closed.
    const socket = createUdpSocket(from);
    await bindUdp(socket, from, 0);
    socket.setRecvBufferSize(1 << 20);
    const peer = new TftpPeer(socket, { port, address });
    t.after(() => peer.close());
    return peer;
  }

  get port(): number {
    return this.#socket.address().port;
  }

  get serverPort(): number {
    return this.#server.port;
  }

  close(): void {
    try {
      this.#socket.close();
    } catch {
      // closed by the test already
    }
  }

  /** To the server's well-known port. */
  request(filename: string, options: OptionList = [], mode = "octet"): void {
    this.sendTo(this.#server.port, buildRequest("rrq", filename, mode, options));
  }

  sendTo(port: number, bytes: Uint8Array): void {
    this.#socket.send(bytes, port, this.#server.address);
  }

  raw(bytes: Uint8Array): void {
    this.sendTo(this.#server.port, bytes);
  }

  ack(block: number): void {
    this.sendTo(this.transferPort ?? 0, buildAck(block & 0xffff));
  }

  error(code: number, message: string): void {
    this.sendTo(this.transferPort ?? 0, buildError(code, message));
  }

  /** The next packet; undefined when none comes in time. */
  async next(timeoutMs = 5_000): Promise<Received | undefined> {
    const deadline = performance.now() + timeoutMs;
    while (this.#inbox.length === 0) {
      const left = deadline - performance.now();
      if (left <= 0) return undefined;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => (clearTimeout(timer), resolve());
      });
    }
    const received = this.#inbox.shift();
    if (["data", "ack", "oack"].includes(received?.packet.op ?? "")) this.transferPort = received?.port;
    return received;
  }

  /** The next packet in short: `DATA 1 512`, `OACK tsize=5`, `ERROR 1 File not found`, `nothing`. */
  async hear(timeoutMs?: number): Promise<string> {
    const received = await this.next(timeoutMs);
    return received === undefined ? "nothing" : inShort(received.packet);
  }
}

export function inShort(packet: Packet): string {
  switch (packet.op) {
    case "data":
      return `DATA ${packet.block} ${packet.data.length}`;
    case "ack":
      return `ACK ${packet.block}`;
    case "error":
      return `ERROR ${packet.code} ${packet.message}`;
    case "oack":
      return ["OACK", ...packet.options.map(([name, value]) => `${name}=${value}`)].join(" ");
    case "rrq":
    case "wrq":
    case "malformed":
      return packet.op;
  }
}

export interface DownloadOptions {
  port: number;
  address?: string;
  /** The client's own address. */
  from?: string;
  filename: string;
  options?: OptionList;
  mode?: string;
  /** When nothing is heard for so long, the last packet is said again. */
  repeatMs?: number;
}

/**
 * Fetches a whole file as RFC 1350 and 7440 tell a client to.
 * @throws Error with the text of the server's ERROR.
 */
export async function download(t: TestContext, wanted: DownloadOptions): Promise<Buffer> {
  const peer = await TftpPeer.open(t, wanted.port, wanted.address, wanted.from);
  try {
    return await downloadWith(peer, wanted);
  } finally {
    peer.close();
  }
}

async function downloadWith(peer: TftpPeer, wanted: DownloadOptions): Promise<Buffer> {
  const { filename, options = [], repeatMs = 1_000 } = wanted;
  const parts: Uint8Array[] = [];
  let [blockSize, window, rollover, sinceAck, acked] = [512, 1, 0, 0, false];
  const number = (block: number) => (block < 65_536 ? block : rollover + ((block - 65_536) % (65_536 - rollover)));
  const say = () => (acked ? peer.ack(number(parts.length)) : peer.request(filename, options, wanted.mode));
  const acknowledge = () => {
    acked = true;
    sinceAck = 0;
    say();
  };
  say();
  let silences = 0;
  let gapReported = -1;
  for (;;) {
    const received = await peer.next(repeatMs);
    if (received === undefined) {
      if ((silences += 1) > 60) throw new Error("the server is silent");
      sinceAck = 0;
      say();
      continue;
    }
    silences = 0;
    const { packet } = received;
    if (packet.op === "error") throw new Error(inShort(packet));
    if (packet.op === "oack") {
      if (parts.length > 0) continue;
      for (const [name, value] of packet.options) {
        if (name === "blksize") blockSize = Number(value);
        if (name === "windowsize") window = Number(value);
        if (name === "rollover") rollover = Number(value);
      }
      acknowledge();
    } else if (packet.op === "data") {
      if (packet.block === number(parts.length + 1)) {
        parts.push(packet.data);
        sinceAck += 1;
        const isLast = packet.data.length < blockSize;
        if (isLast || sinceAck >= window) acknowledge();
        if (isLast) break;
      } else if (packet.block === number(parts.length)) {
        // The last one again: its ACK was lost.
        acknowledge();
      } else if (window > 1 && gapReported !== parts.length) {
        gapReported = parts.length;
        acknowledge();
      }
    }
  }
  return Buffer.concat(parts);
}

export interface UploadOptions extends DownloadOptions {
  content: Buffer;
}

/**
 * Sends a whole file as RFC 1350 and 7440 tell a client to.
 * @throws Error with the text of the server's ERROR.
 */
export async function upload(t: TestContext, wanted: UploadOptions): Promise<void> {
  const peer = await TftpPeer.open(t, wanted.port, wanted.address, wanted.from);
  try {
    await uploadWith(peer, wanted);
  } finally {
    peer.close();
  }
}

async function uploadWith(peer: TftpPeer, wanted: UploadOptions): Promise<void> {
  const { filename, content, options = [], repeatMs = 1_000 } = wanted;
  let [blockSize, window, rollover, acked, isAgreed] = [512, 1, 0, 0, false];
  const last = () => Math.floor(content.length / blockSize) + 1;
  const number = (block: number) => (block < 65_536 ? block : rollover + ((block - 65_536) % (65_536 - rollover)));
  const say = () => {
    if (!isAgreed) return peer.raw(buildRequest("wrq", filename, wanted.mode ?? "octet", options));
    for (let block = acked + 1; block <= Math.min(acked + window, last()); block += 1) {
      const payload = content.subarray((block - 1) * blockSize, block * blockSize);
      peer.sendTo(peer.transferPort ?? 0, buildData(number(block), payload));
    }
  };
  say();
  for (let silences = 0; ;) {
    const packet = (await peer.next(repeatMs))?.packet;
    if (packet === undefined) {
      if ((silences += 1) > 60) throw new Error("the server is silent");
      say();
      continue;
    }
    silences = 0;
    if (packet.op === "error") throw new Error(inShort(packet));
    if (packet.op === "oack" && !isAgreed) {
      for (const [name, value] of packet.options) {
        if (name === "blksize") blockSize = Number(value);
        if (name === "windowsize") window = Number(value);
        if (name === "rollover") rollover = Number(value);
      }
      isAgreed = true;
      say();
    } else if (packet.op === "ack" && !isAgreed) {
      isAgreed = packet.block === 0;
      if (isAgreed) say();
    } else if (packet.op === "ack") {
      let block = acked;
      while (block <= acked + window && number(block) !== packet.block) block += 1;
      if (block > acked + window) continue;
      // The same ACK again tells of a lost first block, in a window; alone it is an echo.
      if (block === acked && window === 1) continue;
      acked = block;
      if (acked === last()) return;
      say();
    }
  }
}
