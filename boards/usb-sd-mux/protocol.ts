/**
 * USB-SD-Mux (Pengutronix, Linux Automation): a Microchip USB2642 card reader, whose auxiliary I2C bus is reached by vendor SCSI commands, and
 * on it a GPIO expander that switches the card. Numbers: the vendor's program usbsdmux; Microchip's "I2C over USB" user guide.
 */

export type Kind = "classic" | "fast";
export type Mode = "host" | "dut" | "off";

/** SCSI model strings, as sysfs has them. @returns undefined for another card reader */
export function kindOf(model: string): Kind | undefined {
  if (/^sdmux HS-SD\/MMC/.test(model)) return "classic";
  if (/^sdFST HS-SD\/MMC/.test(model)) return "fast";
  return undefined;
}

const VENDOR = 0xcf;
const I2C_WRITE_READ = 0x22;
const I2C_WRITE = 0x23;

/** Every I2C command brings or takes so many bytes, whatever its own length says. */
export const i2cBufferBytes = 512;
const mostWriteReadBytes = 9;

/** CDB and data of a write to a device on the I2C bus. */
export function i2cWrite(address: number, bytes: readonly number[]): { cdb: Uint8Array; data: Uint8Array } {
  const cdb = new Uint8Array(16);
  cdb.set([VENDOR, I2C_WRITE, address << 1, 0, bytes.length >> 8, bytes.length & 0xff]);
  const data = new Uint8Array(i2cBufferBytes);
  data.set(bytes);
  return { cdb, data };
}

/** CDB that writes up to 9 bytes, then reads: the answer is the first `length` bytes of 512. */
export function i2cWriteRead(address: number, bytes: readonly number[], length: number): Uint8Array {
  if (bytes.length > mostWriteReadBytes) throw new RangeError(`at most ${mostWriteReadBytes} bytes can be written`);
  const cdb = new Uint8Array(16);
  const write = address << 1;
  cdb.set([VENDOR, I2C_WRITE_READ, write, write | 1, length >> 8, length & 0xff, bytes.length, ...bytes]);
  return cdb;
}

const cardRegisters = { cid: 0x18, csd: 0x1a } as const;
export const cardRegisterBytes = 16;

/** CDB that reads a register of the card, which must be at the host. */
export function readCardRegister(register: keyof typeof cardRegisters): Uint8Array {
  const cdb = new Uint8Array(16);
  cdb.set([VENDOR, cardRegisters[register], 0, 0, cardRegisterBytes]);
  return cdb;
}

/** Registers of both expanders, PCA9536 and TCA6408. */
export const registers = { input: 0, output: 1, direction: 3 } as const;
/** Direction register after power-on: everything an input. */
export const allInputs = 0xff;

interface Expander {
  /** 7 bits. */
  readonly address: number;
  readonly dataOff: number;
  readonly powerOff: number;
  readonly selectDut: number;
  readonly cardRemoved: number;
}

/** PCA9536 and TCA6408. */
export const expanders: Readonly<Record<Kind, Expander>> = {
  classic: { address: 0x41, dataOff: 1, powerOff: 2, selectDut: 4, cardRemoved: 8 },
  fast: { address: 0x20, selectDut: 1, powerOff: 2, dataOff: 4, cardRemoved: 8 },
};

/** The pins of the card; those above them on the FAST are the user's, and keep their levels. */
export const cardPins = 0x0f;

/** How the card's supply falls after it is cut, before which the other side must not be connected. */
export const supplyFallMs = 1_000;

/** Levels of the card's pins on the way to a mode: cut off, then with the other side selected, then connected. */
export function levelsFor(kind: Kind, mode: Mode): { readonly cut: number; readonly then: readonly number[] } {
  const { dataOff, powerOff, selectDut, cardRemoved } = expanders[kind];
  const cut = dataOff | powerOff | cardRemoved;
  if (mode === "off") return { cut, then: [] };
  // The host is selected while it is cut off; the card then is in the reader's slot.
  if (mode === "host") return { cut, then: [0] };
  return { cut, then: [cut | selectDut, selectDut | cardRemoved] };
}

/** What the board finds at power-on, by pull resistors: the card. */
export function levelsAtPowerOn(kind: Kind): number {
  const { selectDut, cardRemoved } = expanders[kind];
  return selectDut | cardRemoved;
}

/** Where the card is, by the levels of its pins. */
export function modeOf(kind: Kind, levels: number): Mode {
  const { powerOff, selectDut } = expanders[kind];
  if ((levels & powerOff) !== 0) return "off";
  return (levels & selectDut) !== 0 ? "dut" : "host";
}

/** What a card says of itself (SD Physical Layer Simplified Specification, 5.2 CID, 5.3 CSD). */
export interface CardIdentity {
  readonly manufacturer: number;
  /** Two characters. */
  readonly oem: string;
  /** Five characters. */
  readonly product: string;
  /** `8.0` */
  readonly revision: string;
  /** 32 bits. */
  readonly serial: number;
  /** `2023-04` */
  readonly made: string;
}

/** @returns undefined for what is no CID */
export function decodeCid(bytes: Uint8Array): CardIdentity | undefined {
  if (bytes.length !== cardRegisterBytes || bytes.every((byte) => byte === 0) || bytes.every((byte) => byte === 0xff)) {
    return undefined;
  }
  const at = (index: number) => bytes[index] ?? 0;
  // Cards hold other bytes than the letters that they should.
  const text = (start: number, end: number) =>
    [...bytes.subarray(start, end)]
      .map((byte) => (byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "."))
      .join("");
  const date = (at(13) << 8) | at(14);
  const digits = (value: number, count: number) => String(value).padStart(count, "0");
  return {
    manufacturer: at(0),
    oem: text(1, 3),
    product: text(3, 8),
    revision: `${at(8) >> 4}.${at(8) & 0xf}`,
    serial: ((at(9) << 24) | (at(10) << 16) | (at(11) << 8) | at(12)) >>> 0,
    made: `${2000 + ((date >> 4) & 0xff)}-${digits(date & 0xf, 2)}`,
  };
}

/** Capacity by a CSD. @returns undefined for what is no CSD */
export function decodeCapacityBytes(csd: Uint8Array): number | undefined {
  if (csd.length !== cardRegisterBytes) return undefined;
  /** Bits of the register, the highest is 127. */
  const bits = (high: number, low: number) => {
    let value = 0;
    for (let bit = high; bit >= low; bit -= 1) {
      value = value * 2 + (((csd[15 - (bit >> 3)] ?? 0) >> (bit & 7)) & 1);
    }
    return value;
  };
  switch (bits(127, 126)) {
    case 0:
      return (bits(73, 62) + 1) * 2 ** (bits(49, 47) + 2) * 2 ** bits(83, 80);
    case 1:
      return (bits(69, 48) + 1) * 512 * 1024;
    case 2:
      return (bits(75, 48) + 1) * 512 * 1024;
    default:
      return undefined;
  }
}

/** `SD card SU04G (manufacturer 0x03 SD), revision 8.0, serial 0x12345678, made 2023-04` */
export function describeCard(card: CardIdentity): string {
  const hex = (value: number, digits: number) => `0x${value.toString(16).padStart(digits, "0")}`;
  const maker = `manufacturer ${hex(card.manufacturer, 2)} ${card.oem}`;
  return `SD card ${card.product} (${maker}), revision ${card.revision}, serial ${hex(card.serial, 8)}, made ${card.made}`;
}
