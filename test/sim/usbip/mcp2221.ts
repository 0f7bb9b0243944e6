/** Microchip's MCP2221A, from USB to I2C and four GPIO lines (data sheet DS20005565, chapter 3). */
import type { DeviceModel } from "./device.ts";
import { hid } from "./hid.ts";

/** What hangs on its bus. */
export interface I2cChip {
  write(bytes: Buffer): void;
  read(length: number): Buffer;
}

export interface Mcp2221 extends DeviceModel {
  readonly chips: Map<number, I2cChip>;
  /** Levels from outside of lines that are inputs. */
  readonly levels: number[];
  /** What is driven, of lines that are outputs. */
  readonly driven: (number | undefined)[];
  /** Transfers on the bus: `w40 01`, `r40 2`; a repeated start is `+`. */
  readonly transfers: string[];
}

const command = {
  status: 0x10,
  getData: 0x40,
  setGpio: 0x50,
  getGpio: 0x51,
  write: 0x90,
  read: 0x91,
  readRepeated: 0x93,
  writeWithoutStop: 0x94,
} as const;
const failed = 1;
const [readComplete, addressNack] = [0x55, 0x25];
const reportBytes = 64;
const lines = 4;

export function mcp2221(serial = "0001234567"): Mcp2221 {
  const chips = new Map<number, I2cChip>();
  const levels = Array.from({ length: lines }, () => 0);
  const driven: (number | undefined)[] = Array.from({ length: lines }, () => undefined);
  const transfers: string[] = [];
  let read: Buffer = Buffer.alloc(0);
  let acknowledged = true;

  const answer = (report: Buffer): Buffer => {
    const reply = Buffer.alloc(reportBytes);
    reply[0] = report[0] ?? 0;
    const [length, address] = [report.readUInt16LE(1), (report[3] ?? 0) >> 1];
    switch (report[0]) {
      case command.status:
        // The speed that was asked for is taken.
        reply[3] = report[3] ?? 0;
        reply[20] = acknowledged ? 0 : 0x40;
        return reply;
      case command.write:
      case command.writeWithoutStop: {
        const bytes = Buffer.from(report.subarray(4, 4 + length));
        transfers.push(`w${address.toString(16)} ${bytes.toString("hex")}`);
        acknowledged = chips.has(address);
        chips.get(address)?.write(bytes);
        return reply;
      }
      case command.read:
      case command.readRepeated:
        transfers.push(`${report[0] === command.read ? "" : "+"}r${address.toString(16)} ${length}`);
        acknowledged = chips.has(address);
        read = chips.get(address)?.read(length) ?? Buffer.alloc(0);
        return reply;
      case command.getData: {
        const part = read.subarray(0, reportBytes - 4);
        read = read.subarray(part.length);
        reply[2] = acknowledged ? readComplete : addressNack;
        reply[3] = part.length;
        part.copy(reply, 4);
        return reply;
      }
      case command.setGpio:
        report.copy(reply, 2, 2);
        for (let line = 0; line < lines; line += 1) {
          // Whether to change the level, the level, whether to change the direction, the direction (1 is in).
          const [setLevel, level = 0, setDirection, direction] = report.subarray(2 + 4 * line, 6 + 4 * line);
          if (setDirection === 1) driven[line] = direction === 1 ? undefined : (driven[line] ?? 0);
          if (setLevel === 1) driven[line] = level;
        }
        return reply;
      case command.getGpio:
        for (let line = 0; line < lines; line += 1) {
          reply[2 + 2 * line] = driven[line] ?? levels[line] ?? 0;
          reply[3 + 2 * line] = driven[line] === undefined ? 1 : 0;
        }
        return reply;
      case undefined:
      default:
        reply[1] = failed;
        return reply;
    }
  };
  const padded = (report: Buffer) => Buffer.concat([report, Buffer.alloc(reportBytes)]).subarray(0, reportBytes);
  const device = hid({ reportBytes, receive: (report) => device.send(answer(padded(report))) });
  return {
    ...{ vendorId: 0x04d8, productId: 0x00dd, manufacturer: "Microchip Technology Inc.", serial, speed: "full" },
    ...{ product: "MCP2221 USB-I2C/UART Combo", functions: [device], chips, levels, driven, transfers },
  };
}
