import { createSocket, type RemoteInfo } from "node:dgram";
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";
import type { TestContext } from "node:test";

type Trouble = "silence" | "pending" | "long pending" | "late" | "short" | "daq noise" | "hang up";

export interface SlaveOptions {
  readonly motorola?: boolean;
  readonly granularity?: 1 | 2 | 4;
  readonly maxCto?: number;
}

/** An XCP slave with 64 KiB of memory, whatever carries its packets. */
export class XcpSlave {
  readonly memory = Buffer.alloc(0x1_0000);
  /** Packets that came, in hexadecimal. */
  readonly packets: string[] = [];
  readonly troubles: Trouble[] = [];
  /** Resources that are locked. */
  locked = 0;
  /** Knows none of the optional commands of DAQ. */
  isPlain = false;
  onHangUp = (): void => {};
  readonly #options: Required<SlaveOptions>;
  #isConnected = false;
  #isProgramming = false;
  #mta = 0;

  constructor(options: SlaveOptions = {}) {
    this.#options = { motorola: false, granularity: 1, maxCto: 16, ...options };
    this.memory.write("XCP slave simulator", 0x1000, "latin1");
    this.memory.write("ASAP2 name of this slave", 0x2000, "latin1");
    this.memory.write("10ms task", 0x3000, "latin1");
  }

  /** What it answers: packets, each after so many milliseconds. */
  respond(packet: Buffer): { afterMs: number; packet: Buffer }[] {
    this.packets.push(packet.toString("hex"));
    const isHeard = this.#isConnected || packet[0] === 0xff;
    const answer = this.#answer(packet);
    const now = (...packets: Buffer[]) => packets.map((each) => ({ afterMs: 0, packet: each }));
    switch (this.troubles.shift()) {
      case "silence":
        return [];
      case "pending":
        return [...now(Buffer.from("fd05", "hex")), { afterMs: 100, packet: answer }];
      case "long pending":
        return [...now(Buffer.from("fd05", "hex")), { afterMs: 700, packet: answer }];
      case "late":
        return [{ afterMs: 100, packet: answer }];
      case "short":
        return now(answer.subarray(0, 2));
      case "daq noise":
        return now(Buffer.from("00010203", "hex"), Buffer.from("fd01", "hex"), answer, Buffer.from("fc00", "hex"));
      case "hang up":
        this.onHangUp();
        return [];
      case undefined:
        return isHeard ? now(answer) : [];
    }
  }

  #u16(value: number): number[] {
    const bytes = [value & 0xff, value >> 8];
    return this.#options.motorola ? bytes.reverse() : bytes;
  }

  #u32(value: number): number[] {
    const bytes = [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24];
    return this.#options.motorola ? bytes.reverse() : bytes;
  }

  #answer(packet: Buffer): Buffer {
    const { motorola, granularity, maxCto } = this.#options;
    const ok = (...bytes: number[]) => Buffer.from([0xff, ...bytes]);
    const error = (code: number) => Buffer.from([0xfe, code]);
    const dword = (at: number) => (motorola ? packet.readUInt32BE(at) : packet.readUInt32LE(at));
    const word = (at: number) => (motorola ? packet.readUInt16BE(at) : packet.readUInt16LE(at));
    const upload = (elements: number) => {
      const bytes = elements * granularity;
      if (bytes + granularity > maxCto) return error(0x22);
      const data = this.memory.subarray(this.#mta, this.#mta + bytes);
      this.#mta += bytes;
      return ok(...Array.from({ length: granularity - 1 }, () => 0), ...data);
    };
    switch (packet[0] ?? 0) {
      case 0xff: {
        this.#isConnected = true;
        const mode = (motorola ? 1 : 0) | ({ 1: 0, 2: 2, 4: 4 }[granularity] ?? 0);
        return ok(0x1d, mode, maxCto, ...this.#u16(1024), 1, 1);
      }
      case 0xfe:
        this.#isConnected = false;
        return ok();
      case 0xfd:
        return ok(0x40, this.locked, 0, ...this.#u16(0x1234));
      case 0xfc:
        return error(0x00);
      case 0xfa:
        if (packet[1] === 0) return ok(1, 0, 0, ...this.#u32(4), ...Buffer.from("ECU1"));
        if (packet[1] === 1) {
          this.#mta = 0x2000;
          return ok(0, 0, 0, ...this.#u32(24));
        }
        return ok(0, 0, 0, ...this.#u32(0));
      case 0xf6:
        this.#mta = dword(4);
        return ok();
      case 0xf5:
        return upload(packet[1] ?? 0);
      case 0xf4:
        this.#mta = dword(4);
        return upload(packet[1] ?? 0);
      case 0xf3: {
        const bytes = this.memory.subarray(this.#mta, this.#mta + dword(4));
        return ok(1, 0, 0, ...this.#u32(bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0)));
      }
      case 0xf0:
      case 0xd0: {
        if (packet[0] === 0xf0 && (this.locked & 0x01) !== 0) return error(0x25);
        if (packet[0] === 0xd0 && !this.#isProgramming) return error(0x29);
        const start = Math.max(granularity, 2);
        const data = packet.subarray(start, start + (packet[1] ?? 0) * granularity);
        if (data.length !== (packet[1] ?? 0) * granularity) return error(0x21);
        data.copy(this.memory, this.#mta);
        this.#mta += data.length;
        return ok();
      }
      case 0xda:
        return this.isPlain ? error(0x20) : ok(0x51, ...this.#u16(4), ...this.#u16(1), 1, 0x40);
      case 0xd9:
        return this.isPlain ? error(0x20) : ok(1, 8, 2, 4, 0x34, ...this.#u16(10));
      case 0xd7:
        if (word(2) !== 0) return error(0x22);
        this.#mta = 0x3000;
        return ok(0x84, 2, 9, 10, 6, 5);
      case 0xde:
        return word(2) < 4 ? ok(0x20) : error(0x22);
      case 0xe2:
      case 0xe1:
      case 0xe0:
      case 0xdd:
      case 0xd6:
      case 0xd5:
      case 0xd4:
      case 0xd3:
        return ok();
      case 0xd2:
        this.#isProgramming = true;
        return ok(0, 0x01, 12, 2, 3, 4);
      case 0xd1:
        return this.#isProgramming ? ok() : error(0x29);
      case 0xcf:
        this.#isConnected = false;
        return ok();
      default:
        return error(0x20);
    }
  }
}

/** A slave on a TCP and a UDP port of the same number, which it answers on in the same way. */
export interface EthernetSlave {
  readonly port: number;
  readonly connections: ReadonlySet<Socket>;
  crumbles: boolean;
  sendRaw(bytes: Uint8Array): void;
}

export async function serveOnEthernet(
  t: Pick<TestContext, "after">,
  slave: XcpSlave,
  host = "127.0.0.1",
): Promise<EthernetSlave> {
  const connections = new Set<Socket>();
  let counter = 0;
  let isOver = false;
  const framed = (packet: Buffer) => {
    const header = Buffer.alloc(4);
    header.writeUInt16LE(packet.length, 0);
    header.writeUInt16LE((counter += 1) & 0xffff, 2);
    return Buffer.concat([header, packet]);
  };
  const answer = (packet: Buffer, send: (bytes: Buffer) => void) => {
    for (const { afterMs, packet: each } of slave.respond(packet)) {
      if (afterMs === 0) send(framed(each));
      else setTimeout(() => send(framed(each)), afterMs).unref();
    }
  };
  let crumbling = Promise.resolve();
  const write = (socket: Socket, bytes: Buffer) => {
    if (!server.crumbles) return void socket.write(bytes);
    crumbling = crumbling.then(async () => {
      for (const byte of bytes) await new Promise((resolve) => socket.write(Uint8Array.of(byte), resolve));
    });
  };
  const listener = createServer((socket) => {
    connections.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => connections.delete(socket));
    let held = Buffer.alloc(0);
    socket.on("data", (chunk) => {
      held = Buffer.concat([held, chunk]);
      while (held.length >= 4 && held.length >= 4 + held.readUInt16LE(0)) {
        const packet = held.subarray(4, 4 + held.readUInt16LE(0));
        held = held.subarray(4 + packet.length);
        answer(packet, (bytes) => write(socket, bytes));
      }
    });
  }).listen(0, host);
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  const datagrams = createSocket("udp4");
  datagrams.on("message", (datagram, from: RemoteInfo) => {
    answer(datagram.subarray(4), (bytes) => {
      if (!isOver) datagrams.send(bytes, from.port, from.address);
    });
  });
  datagrams.bind(port, host);
  await once(datagrams, "listening");
  const hangUp = () => connections.forEach((socket) => socket.destroy());
  slave.onHangUp = hangUp;
  t.after(() => {
    isOver = true;
    hangUp();
    listener.close();
    datagrams.close();
  });
  const server: EthernetSlave = {
    port,
    connections,
    crumbles: false,
    sendRaw: (bytes) => connections.forEach((socket) => socket.write(bytes)),
  };
  return server;
}
