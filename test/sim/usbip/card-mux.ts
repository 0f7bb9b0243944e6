/** SD muxes: what switches a card, and the readers that see it come and go. */
import type { DeviceModel, Setup } from "./device.ts";
import { massStorage, type MassStorage, type MassStorageOptions } from "./mass-storage.ts";

/** A card that lies in one mux: at the reader of the host, or not. */
export interface SimCard {
  readonly reader: MassStorage;
  readonly medium: Buffer;
  isAtHost: boolean;
}

/** @param options of the reader */
export function simCard(sizeBytes: number, options: MassStorageOptions = {}): SimCard {
  const reader = massStorage(options);
  const medium = Buffer.alloc(sizeBytes);
  let isAtHost = false;
  return {
    reader,
    medium,
    get isAtHost() {
      return isAtHost;
    },
    set isAtHost(wanted) {
      if (wanted === isAtHost) return;
      isAtHost = wanted;
      if (wanted) reader.insert(medium);
      else reader.eject();
    },
  };
}

export interface Ft200x {
  readonly model: DeviceModel;
  /** CBUS0 is a GPIO in the EEPROM; otherwise requests are taken and nothing moves. */
  isProgrammed: boolean;
}

/** An SDWire's chip, whose CBUS0 moves the card. */
export function ft200x(card: SimCard, serial = "sd-wire_11"): Ft200x {
  const chip: { model: DeviceModel; isProgrammed: boolean } = {
    isProgrammed: true,
    model: {
      vendorId: 0x04e8,
      productId: 0x6001,
      manufacturer: "SRPOL",
      product: "sd-wire",
      serial,
      functions: [{ interfaces: () => [{ class: 0xff, subclass: 0xff, protocol: 0xff, endpoints: [] }] }],
      control({ requestType, request, value, length }: Setup) {
        if (requestType === 0x40 && request === 0x0b) {
          const isCbusOut = value >> 8 === 0x20 && (value & 0x10) !== 0;
          if (chip.isProgrammed && isCbusOut) card.isAtHost = (value & 1) === 1;
          return Buffer.alloc(0);
        }
        if (requestType === 0xc0 && request === 0x0c && length === 1) return Buffer.from([card.isAtHost ? 0xf1 : 0xf0]);
        return undefined;
      },
    },
  };
  return chip;
}

export interface SdMux {
  readonly model: DeviceModel;
  readonly card: SimCard;
  /** What was written to the expander's registers, in order. */
  readonly writes: readonly (readonly [register: number, value: number])[];
  readonly registers: number[];
  /** Rules that the hardware's maker has and that were broken: a side connected while the supply had not fallen, and the like. */
  readonly faults: readonly string[];
}

const abortedCommand = { sense: [0x0b, 0, 0] } as const;

/** A USB-SD-Mux: a USB2642 with an expander on its I2C bus. */
export function sdMux(kind: "classic" | "fast", sizeBytes: number, serial = "000000000042"): SdMux {
  const address = kind === "classic" ? 0x41 : 0x20;
  const pin = kind === "classic" ? { data: 1, power: 2, dut: 4 } : { dut: 1, power: 2, data: 4 };
  // Input, output, polarity, direction as after power-on.
  const registers = [0xff, 0xff, 0, 0xff];
  const writes: [number, number][] = [];
  const faults: string[] = [];
  let pointer = 0;
  let powerOffAtMs = -Infinity;
  let side = "dut";
  /** Resistors give the card to the board. */
  const pulls = kind === "classic" ? 0x0c : 0x09;

  const levels = () => {
    const [, output = 0, , direction = 0] = registers;
    return ((output & ~direction) | (pulls & direction)) & 0xff;
  };
  const settle = () => {
    const now = levels();
    const isOff = (now & pin.power) !== 0;
    if (isOff !== ((now & pin.data) !== 0)) faults.push("data and power are switched one without the other");
    if (isOff) {
      if (side !== "off") powerOffAtMs = performance.now();
      side = "off";
    } else {
      const next = (now & pin.dut) !== 0 ? "dut" : "host";
      if (side !== "off" && next !== side) faults.push("switched while connected");
      if (side === "off" && performance.now() - powerOffAtMs < 990)
        faults.push("connected before the supply had fallen");
      side = next;
    }
    card.isAtHost = side === "host";
  };
  const write = (bytes: Buffer) => {
    const [register = 0, ...values] = bytes;
    pointer = register;
    for (const value of values) {
      registers[register] = value;
      writes.push([register, value]);
      settle();
    }
  };
  const command = (cdb: Buffer, data: Buffer): ReturnType<NonNullable<MassStorageOptions["command"]>> => {
    if (cdb[0] !== 0xcf) return undefined;
    const length = cdb.readUInt16BE(4);
    switch (cdb.readUInt8(1)) {
      case 0x23:
        if (cdb[2] !== address * 2 || data.length !== 512) return abortedCommand;
        write(data.subarray(0, length));
        return { data: Buffer.alloc(0) };
      case 0x22: {
        if (cdb[2] !== address * 2 || cdb[3] !== address * 2 + 1) return abortedCommand;
        write(cdb.subarray(7, 7 + cdb.readUInt8(6)));
        const answer = Buffer.alloc(512);
        answer[0] = pointer === 0 ? levels() : (registers[pointer] ?? 0);
        return { data: answer };
      }
      case 0x18:
      case 0x1a:
        if (!card.isAtHost || cdb[4] !== 16) return { sense: [2, 0x3a, 0] };
        return {
          data: Buffer.from(
            cdb[1] === 0x18 ? "035344534331364780cafebabe0171c3" : "400e00325b59000076b27f800a404013",
            "hex",
          ),
        };
      default:
        return abortedCommand;
    }
  };
  const product = kind === "classic" ? "sdmux HS-SD/MMC" : "sdFST HS-SD/MMC";
  const card = simCard(sizeBytes, { vendor: "LinuxAut", product, command });
  const model: DeviceModel = {
    vendorId: 0x0424,
    productId: 0x4041,
    manufacturer: "Pengutronix",
    product: "usb-sd-mux_rev1",
    serial,
    functions: [card.reader],
  };
  return { model, card, writes, registers, faults };
}
