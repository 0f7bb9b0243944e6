/** The other end of an iSCSI target: logs in without a password, reads and writes blocks of 512 bytes. Numbers: RFC 7143 §11. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";

const headBytes = 48;
const blockBytes = 512;
const [loginRequest, scsiCommand, logoutRequest] = [0x43, 0x01, 0x46];
const [loginResponse, scsiResponse, dataIn, logoutResponse] = [0x23, 0x21, 0x25, 0x26];
/** SCSI's: the target has something to tell first, such as that it is new. */
const checkCondition = 2;

interface Pdu {
  readonly head: Buffer;
  readonly data: Buffer;
}

export class Initiator {
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Buffer>;
  #received: Buffer = Buffer.alloc(0);
  #tag = 0;
  #command = 1;
  #nextStatus = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#chunks = (socket as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  }

  /** @throws Error with the status of a login that was refused */
  static async login(port: number, target: string, name = "iqn.2024-06.dev.jumpstarter:test"): Promise<Initiator> {
    const socket = connect(port, "127.0.0.1");
    await once(socket, "connect");
    const initiator = new Initiator(socket);
    const keys = { InitiatorName: name, TargetName: target, SessionType: "Normal", AuthMethod: "None" };
    // All that there is to agree on: what is left out, the target proposes, and wants an answer.
    const more = {
      ...{ HeaderDigest: "None", DataDigest: "None", InitialR2T: "No", ImmediateData: "Yes", MaxConnections: "1" },
      ...{ MaxRecvDataSegmentLength: "262144", MaxBurstLength: "262144", FirstBurstLength: "65536" },
      ...{ MaxOutstandingR2T: "1", DefaultTime2Wait: "2", DefaultTime2Retain: "0", ErrorRecoveryLevel: "0" },
      ...{ DataPDUInOrder: "Yes", DataSequenceInOrder: "Yes", IFMarker: "No", OFMarker: "No" },
    };
    try {
      // From the operational stage (1) to full feature phase (3) at once.
      const text = textOf({ ...keys, ...more });
      await initiator.#send(loginRequest, 0x87, (head) => head.write("\x80jmp\0\x01", 8, "latin1"), text);
      const { head, data } = await initiator.#receive(loginResponse);
      const status = head.readUInt16BE(36);
      if (status !== 0) throw new Error(`login refused: ${status.toString(16).padStart(4, "0")}`);
      if (((head[1] ?? 0) & 0x80) === 0) throw new Error(`the target wants to go on: ${data.toString()}`);
      return initiator;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  /** Blocks from `start` on. */
  async read(lun: number, start: number, count: number): Promise<Buffer> {
    return this.#retry(() => this.#scsi(lun, cdb(0x28, start, count), count * blockBytes));
  }

  /** As much as the target takes with the command itself: some KiB. */
  async write(lun: number, start: number, data: Buffer): Promise<void> {
    await this.#retry(() => this.#scsi(lun, cdb(0x2a, start, data.length / blockBytes), data.length, data));
  }

  async logout(): Promise<void> {
    await this.#send(logoutRequest, 0x80, () => {});
    await this.#receive(logoutResponse);
    this.#socket.destroy();
  }

  async #retry<T>(command: () => Promise<T | undefined>): Promise<T> {
    for (let attempt = 0; attempt < 3; attempt += 1) {
      const result = await command();
      if (result !== undefined) return result;
    }
    throw new Error("the target goes on complaining");
  }

  /** @returns undefined for a complaint */
  async #scsi(lun: number, command: Buffer, length: number, out?: Buffer): Promise<Buffer | undefined> {
    const direction = out === undefined ? 0x40 : 0x20;
    const fill = (head: Buffer) => {
      head.writeUInt8(lun, 9);
      head.writeUInt32BE(length, 20);
      command.copy(head, 32);
    };
    await this.#send(scsiCommand, 0x80 | direction | 1, fill, out);
    const result = Buffer.alloc(length);
    for (;;) {
      const { head, data } = await this.#receive(dataIn, scsiResponse);
      const isData = head[0] === dataIn;
      if (isData) data.copy(result, head.readUInt32BE(40));
      if (isData && ((head[1] ?? 0) & 1) === 0) continue;
      const status = head[3];
      if (status === 0) return result;
      if (status === checkCondition) return undefined;
      throw new Error(`SCSI status ${status}`);
    }
  }

  async #send(
    opcode: number,
    flags: number,
    fill: (head: Buffer) => void,
    data: Buffer = Buffer.alloc(0),
  ): Promise<void> {
    const head = Buffer.alloc(headBytes);
    head.writeUInt8(opcode, 0);
    head.writeUInt8(flags, 1);
    head.writeUIntBE(data.length, 5, 3);
    head.writeUInt32BE((this.#tag += 1), 16);
    head.writeUInt32BE(this.#command, 24);
    head.writeUInt32BE(this.#nextStatus, 28);
    // What is marked as immediate takes no number.
    if (opcode === scsiCommand) this.#command += 1;
    fill(head);
    this.#socket.write(Buffer.concat([head, data, Buffer.alloc(-data.length & 3)]));
  }

  async #receive(...opcodes: readonly number[]): Promise<Pdu> {
    const head = await this.#take(headBytes);
    const length = head.readUIntBE(5, 3);
    const data = (await this.#take((length + 3) & ~3)).subarray(0, length);
    const opcode = head.readUInt8(0);
    if (!opcodes.includes(opcode)) throw new Error(`PDU ${opcode.toString(16)} was not expected`);
    if (opcode !== dataIn || ((head[1] ?? 0) & 1) === 1) this.#nextStatus = head.readUInt32BE(24) + 1;
    return { head, data };
  }

  async #take(bytes: number): Promise<Buffer> {
    while (this.#received.length < bytes) {
      const next = await this.#chunks.next();
      if (next.done) throw new Error("the target hung up");
      this.#received = Buffer.concat([this.#received, next.value]);
    }
    const taken = this.#received.subarray(0, bytes);
    this.#received = this.#received.subarray(bytes);
    return taken;
  }
}

/** READ(10) and WRITE(10). */
function cdb(operation: number, start: number, count: number): Buffer {
  const bytes = Buffer.alloc(10);
  bytes.writeUInt8(operation, 0);
  bytes.writeUInt32BE(start, 2);
  bytes.writeUInt16BE(count, 7);
  return bytes;
}

function textOf(keys: Record<string, string>): Buffer {
  return Buffer.from(
    Object.entries(keys)
      .map(([key, value]) => `${key}=${value}\0`)
      .join(""),
  );
}
