/**
 * Power meters of Texas Instruments: registers of 16 bits, high byte first. Numbers from the data sheets SBOS448 (INA219), SBOS547
 * (INA226) and SBOS656 (INA260).
 *
 * Current is worked out here from the voltage at the shunt, not by the chip: that needs no calibration register, which others may
 * have set and a power cut clears, and cannot overflow. The flag OVF tells of the chip's own products, which nobody reads.
 */

export const models = ["ina219", "ina226", "ina260"] as const;
export type Model = (typeof models)[number];

export const registers = {
  config: 0x00,
  /** Voltage at the shunt; of an INA260, which has its shunt inside, current. */
  shunt: 0x01,
  bus: 0x02,
  /** Not in an INA219. */
  maskEnable: 0x06,
  manufacturer: 0xfe,
  die: 0xff,
} as const;

/** "TI" */
export const manufacturerId = 0x5449;
/** Without the four bits of the revision; an INA219 has no registers that tell what it is. */
const dieIds: Readonly<Record<Model, number | undefined>> = { ina219: undefined, ina226: 0x226, ina260: 0x227 };

/** Operating mode "shunt and bus, continuous". Others measure when they are told to, or not at all. */
export const continuous = 0b111;

export interface Registers {
  readonly config: number;
  readonly shunt: number;
  readonly bus: number;
}

export interface Reading {
  readonly voltageV: number;
  readonly currentA: number;
  /** The current is beyond what the chip can measure: the true one is larger, in the same direction. */
  readonly saturated: boolean;
}

const signed = (register: number) => (register & 0x8000 ? register - 0x10000 : register);

/** @param shuntOhms of an INA260 it means nothing */
export function decodeReading(model: Model, { config, shunt, bus }: Registers, shuntOhms: number): Reading {
  const raw = signed(shunt);
  switch (model) {
    case "ina219": {
      // PG, bits 12 and 11: ±40, 80, 160 or 320 mV in steps of 10 µV.
      const fullScale = 4_000 << ((config >> 11) & 0b11);
      return {
        voltageV: ((bus >> 3) * 4) / 1_000,
        currentA: raw / (100_000 * shuntOhms),
        saturated: Math.abs(raw) >= fullScale,
      };
    }
    case "ina226":
      // 2.5 µV and 1.25 mV.
      return { voltageV: ((bus & 0x7fff) * 5) / 4_000, currentA: raw / (400_000 * shuntOhms), saturated: atEnd(raw) };
    case "ina260":
      // 1.25 mA and 1.25 mV.
      return { voltageV: ((bus & 0x7fff) * 5) / 4_000, currentA: (raw * 5) / 4_000, saturated: atEnd(raw) };
  }
}

const atEnd = (raw: number) => raw === 0x7fff || raw === -0x8000;

/** Whether a measurement has ended since the mode was set: CNVR of the bus register, or CVRF of mask/enable. */
export function isReady(model: Model, register: number): boolean {
  return (register & (model === "ina219" ? 1 << 1 : 1 << 3)) !== 0;
}

/** Whether the identification registers are those of this model; undefined if it has none. */
export function isModel(model: Model, manufacturer: number, die: number): boolean | undefined {
  const id = dieIds[model];
  if (id === undefined) return undefined;
  return manufacturer === manufacturerId && die >> 4 === id;
}
