/**
 * An ESP32 at the far end of a serial cable, for the real esptool: its boot loader in ROM, and the stub that esptool loads into its memory.
 * Numbers: Espressif's documentation of the serial protocol (esptool, "Serial Protocol"), and the ESP32's technical reference.
 */
import { createHash } from "node:crypto";
import type { Duplex } from "node:stream";
import { constants, inflateSync } from "node:zlib";

export interface Esp32 {
  readonly flash: Buffer;
  /** Names of the commands, in order, repetitions left out. */
  readonly commands: string[];
  /** It answers nothing any more. */
  silent: boolean;
  /** Flips a bit of what is written, so that it is not what its checksum says. */
  spoils: boolean;
  /** Does not return from a write: whoever waits for it has to give up. */
  hangsAt: string | undefined;
}

const names: Readonly<Record<number, string>> = {
  0x02: "FLASH_BEGIN",
  0x03: "FLASH_DATA",
  0x04: "FLASH_END",
  0x05: "MEM_BEGIN",
  0x06: "MEM_END",
  0x07: "MEM_DATA",
  0x08: "SYNC",
  0x09: "WRITE_REG",
  0x0a: "READ_REG",
  0x0b: "SPI_SET_PARAMS",
  0x0d: "SPI_ATTACH",
  0x0f: "CHANGE_BAUDRATE",
  0x10: "FLASH_DEFL_BEGIN",
  0x11: "FLASH_DEFL_DATA",
  0x12: "FLASH_DEFL_END",
  0x13: "SPI_FLASH_MD5",
  0xd0: "ERASE_FLASH",
  0xd1: "ERASE_REGION",
  0xd2: "READ_FLASH",
  0xd3: "RUN_USER_CODE",
};

const registers: ReadonlyMap<number, number> = new Map([
  [0x4000_1000, 0x00f0_1d83], // of which esptool knows an ESP32
  [0x3ff5_a004, 0x3344_5566], // MAC address 24:0a:33:44:55:66, with its checksum above
  [0x3ff5_a008, 0x00e9_240a],
  [0x3ff4_2080, 0x0016_40ef], // what its flash says of itself: 4 MiB, by Winbond
]);

export function simulateEsp32(line: Duplex, flashBytes = 4 * 2 ** 20): Esp32 {
  const chip: Esp32 = {
    flash: Buffer.alloc(flashBytes, 0xff),
    commands: [],
    silent: false,
    spoils: false,
    hangsAt: undefined,
  };
  let isStub = false;
  let writing = { offset: 0, packed: false, pieces: [] as Buffer[] };
  let reading: { packets: Buffer[]; acknowledged: number; sent: number; digest: Buffer } | undefined;

  const send = (bytes: Buffer) => line.write(framed(bytes));
  const answer = (command: number, { value = 0, data = Buffer.alloc(0), failed = 0 } = {}) => {
    const status = Buffer.alloc(isStub ? 2 : 4);
    status[0] = failed === 0 ? 0 : 1;
    status[1] = failed;
    const header = Buffer.from([1, command, 0, 0, 0, 0, 0, 0]);
    header.writeUInt16LE(data.length + status.length, 2);
    header.writeUInt32LE(value, 4);
    send(Buffer.concat([header, data, status]));
  };
  const settle = () => {
    const received = Buffer.concat(writing.pieces.splice(0));
    if (received.length === 0) return;
    const content = writing.packed ? inflateSync(received, { finishFlush: constants.Z_SYNC_FLUSH }) : received;
    if (chip.spoils) content[0] = (content[0] ?? 0) ^ 1;
    content.copy(chip.flash, writing.offset);
  };
  const feed = () => {
    if (reading === undefined) return;
    for (; reading.packets.length > 0 && reading.sent - reading.acknowledged < 0x4000;) {
      const packet = reading.packets.shift() as Buffer;
      reading.sent += packet.length;
      send(packet);
    }
  };

  const take = (packet: Buffer): void => {
    if (reading !== undefined) {
      reading.acknowledged = packet.readUInt32LE(0);
      if (reading.packets.length === 0 && reading.acknowledged === reading.sent) {
        send(reading.digest);
        reading = undefined;
      } else feed();
      return;
    }
    const [direction, command = 0] = packet;
    if (direction !== 0 || packet.length < 8) return;
    const name = names[command] ?? `0x${command.toString(16)}`;
    if (chip.commands.at(-1) !== name) chip.commands.push(name);
    if (chip.silent || chip.hangsAt === name) return;
    const data = packet.subarray(8);
    const word = (index: number) => data.readUInt32LE(index * 4);
    switch (name) {
      case "SYNC":
        isStub = false;
        for (let count = 0; count < 8; count += 1) answer(command, { value: 0x2007_1220 });
        return;
      case "READ_REG":
        return answer(command, { value: registers.get(word(0)) ?? 0 });
      case "MEM_END":
        answer(command);
        isStub = true;
        send(Buffer.from("OHAI"));
        return;
      case "FLASH_BEGIN":
      case "FLASH_DEFL_BEGIN":
        settle();
        writing = { offset: word(3), packed: name === "FLASH_DEFL_BEGIN", pieces: [] };
        return answer(command);
      case "FLASH_DATA":
      case "FLASH_DEFL_DATA": {
        const piece = data.subarray(16);
        const checksum = piece.reduce((sum, byte) => sum ^ byte, 0xef);
        if (checksum !== packet.readUInt32LE(4)) return answer(command, { failed: 0x07 });
        writing.pieces.push(Buffer.from(piece));
        return answer(command);
      }
      case "SPI_FLASH_MD5": {
        settle();
        const digest = createHash("md5")
          .update(chip.flash.subarray(word(0), word(0) + word(1)))
          .digest();
        return answer(command, { data: isStub ? digest : Buffer.from(digest.toString("hex")) });
      }
      case "ERASE_FLASH":
        chip.flash.fill(0xff);
        return answer(command);
      case "ERASE_REGION":
        chip.flash.fill(0xff, word(0), word(0) + word(1));
        return answer(command);
      case "READ_FLASH": {
        answer(command);
        const content = Buffer.from(chip.flash.subarray(word(0), word(0) + word(1)));
        const packets: Buffer[] = [];
        for (let at = 0; at < content.length; at += word(2)) packets.push(content.subarray(at, at + word(2)));
        reading = { packets, acknowledged: 0, sent: 0, digest: createHash("md5").update(content).digest() };
        return feed();
      }
      case "MEM_BEGIN":
      case "MEM_DATA":
      case "WRITE_REG":
      case "SPI_SET_PARAMS":
      case "SPI_ATTACH":
      case "CHANGE_BAUDRATE":
      case "FLASH_END":
      case "FLASH_DEFL_END":
      case "RUN_USER_CODE":
        return answer(command);
      default:
        return answer(command, { failed: 0x05 });
    }
  };
  line.on("data", unframed(take));
  return chip;
}

/** SLIP (RFC 1055). */
function framed(bytes: Buffer): Buffer {
  const out = [0xc0];
  for (const byte of bytes) {
    if (byte === 0xc0) out.push(0xdb, 0xdc);
    else if (byte === 0xdb) out.push(0xdb, 0xdd);
    else out.push(byte);
  }
  return Buffer.from([...out, 0xc0]);
}

function unframed(take: (packet: Buffer) => void): (chunk: Buffer) => void {
  let packet: number[] | undefined;
  let escaped = false;
  return (chunk) => {
    for (const byte of chunk) {
      if (byte === 0xc0) {
        if (packet !== undefined && packet.length > 0) {
          take(Buffer.from(packet));
          packet = undefined;
        } else packet = [];
        escaped = false;
      } else if (packet !== undefined) {
        if (escaped) packet.push(byte === 0xdc ? 0xc0 : 0xdb);
        else if (byte !== 0xdb) packet.push(byte);
        escaped = !escaped && byte === 0xdb;
      }
    }
  };
}
