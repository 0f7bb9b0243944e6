import type { ResponseReader } from "./protocol.ts";

/** What a slave tells of data acquisition, with the names of pyxcp, which its clients know. */

export interface DaqProcessor {
  readonly info: Record<string, unknown>;
  readonly eventChannels: number;
}

const flag = (byte: number, bit: number) => (byte & (1 << bit)) !== 0;
const named = (names: readonly string[], value: number) => names[value] ?? value;

const identificationFields = [
  "IDF_ABS_ODT_NUMBER",
  "IDF_REL_ODT_NUMBER_ABS_DAQ_LIST_NUMBER_BYTE",
  "IDF_REL_ODT_NUMBER_ABS_DAQ_LIST_NUMBER_WORD",
  "IDF_REL_ODT_NUMBER_ABS_DAQ_LIST_NUMBER_WORD_ALIGNED",
];
const addressExtensions = ["AE_DIFFERENT_WITHIN_ODT", "AE_SAME_FOR_ALL_ODT", "_NOT_ALLOWED", "AE_SAME_FOR_ALL_DAQ"];
const optimisations = [
  "OM_DEFAULT",
  "OM_ODT_TYPE_16",
  "OM_ODT_TYPE_32",
  "OM_ODT_TYPE_64",
  "OM_ODT_TYPE_ALIGNMENT",
  "OM_MAX_ENTRY_SIZE",
];
const units = ["1NS", "10NS", "100NS", "1US", "10US", "100US", "1MS", "10MS", "100MS", "1S", "1PS", "10PS", "100PS"];
const timestampSizes = ["NO_TIME_STAMP", "S1", "S2", "NOT_ALLOWED", "S4"];
const consistencies = ["CONSISTENCY_ODT", "CONSISTENCY_DAQ", "CONSISTENCY_EVENTCHANNEL", "CONSISTENCY_NONE"];

export function parseDaqProcessor(response: ResponseReader): DaqProcessor {
  const [properties, key] = [response.u8(0), response.u8(6)];
  return {
    eventChannels: response.u16(3),
    info: {
      minDaq: response.u8(5),
      maxDaq: response.u16(1),
      properties: {
        configType: flag(properties, 0) ? "DYNAMIC" : "STATIC",
        overloadEvent: flag(properties, 7),
        overloadMsb: flag(properties, 6),
        prescalerSupported: flag(properties, 1),
        pidOffSupported: flag(properties, 5),
        timestampSupported: flag(properties, 4),
        bitStimSupported: flag(properties, 3),
        resumeSupported: flag(properties, 2),
      },
      keyByte: {
        identificationField: named(identificationFields, key >> 6),
        addressExtension: named(addressExtensions, (key >> 4) & 3),
        optimisationType: named(optimisations, key & 0xf),
      },
    },
  };
}

/** Of a slave that does not tell; the command is optional. */
export const unknownProcessor: DaqProcessor = {
  eventChannels: 0,
  info: {
    minDaq: 0,
    maxDaq: 0,
    properties: {
      configType: "DYNAMIC",
      overloadEvent: false,
      overloadMsb: true,
      prescalerSupported: false,
      pidOffSupported: false,
      timestampSupported: false,
      bitStimSupported: false,
      resumeSupported: false,
    },
    keyByte: {
      identificationField: "IDF_ABS_ODT_NUMBER",
      addressExtension: "AE_SAME_FOR_ALL",
      optimisationType: "OM_DEFAULT",
    },
  },
};

export function parseDaqResolution(response: ResponseReader): Record<string, unknown> {
  const mode = response.u8(4);
  return {
    timestampTicks: response.u16(5),
    maxOdtEntrySizeDaq: response.u8(1),
    maxOdtEntrySizeStim: response.u8(3),
    granularityOdtEntrySizeDaq: response.u8(0),
    granularityOdtEntrySizeStim: response.u8(2),
    timestampMode: {
      unit: named(
        units.map((unit) => `DAQ_TIMESTAMP_UNIT_${unit}`),
        mode >> 4,
      ),
      fixed: flag(mode, 3),
      size: named(timestampSizes, mode & 7),
    },
  };
}

export const unknownResolution: Record<string, unknown> = {
  timestampTicks: 0,
  maxOdtEntrySizeDaq: 0,
  maxOdtEntrySizeStim: 0,
  granularityOdtEntrySizeDaq: 1,
  granularityOdtEntrySizeStim: 1,
  timestampMode: { unit: "DAQ_TIMESTAMP_UNIT_1NS", fixed: false, size: "NO_TIME_STAMP" },
};

export interface DaqEvent {
  readonly nameBytes: number;
  /** @param name uploaded after it */
  info(name: string): Record<string, unknown>;
}

export function parseDaqEvent(response: ResponseReader): DaqEvent {
  const properties = response.u8(0);
  const [maxDaqList, nameBytes, cycle, unit, priority] = [1, 2, 3, 4, 5].map((at) => response.u8(at)) as [
    number, number, number, number, number,
  ]; // prettier-ignore
  return {
    nameBytes,
    info: (name) => ({
      name,
      priority,
      unit: named(
        units.map((each) => `EVENT_CHANNEL_TIME_UNIT_${each}`),
        unit,
      ),
      cycle,
      maxDaqList,
      properties: {
        consistency: named(consistencies, properties >> 6),
        daq: flag(properties, 2),
        stim: flag(properties, 3),
        packed: flag(properties, 4),
      },
    }),
  };
}
