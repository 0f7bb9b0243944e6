import type { CanFilter, CanFrame } from "./bus.ts";

/** Frames as Linux hands them over (linux/can.h), and what error frames mean (linux/can/error.h). */

/** struct can_frame and struct canfd_frame: id and flags (u32 of the host), length, FD flags, two bytes of nothing, data. */
export const classicBytes = 16;
export const fdBytes = 72;
const at = { id: 0, length: 4, flags: 5, data: 8 } as const;

const EFF_FLAG = 0x8000_0000;
const RTR_FLAG = 0x4000_0000;
const ERR_FLAG = 0x2000_0000;
const EFF_MASK = 0x1fff_ffff;
const SFF_MASK = 0x7ff;
const [FD_BRS, FD_ESI, FD_FDF] = [0x01, 0x02, 0x04];

export const longestClassicBytes = 8;
export const longestFdBytes = 64;

/** Data lengths by their code, ISO 11898-1:2015 table 5. */
const fdLengths = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64] as const;

/** The shortest FD frame that holds this much. @throws RangeError above 64 */
export function fdLengthFor(dataBytes: number): number {
  const found = fdLengths.find((length) => length >= dataBytes);
  if (found === undefined) throw new RangeError(`an FD frame holds ${longestFdBytes} bytes, not ${dataBytes}`);
  return found;
}

/**
 * The bytes of a frame, 16 or 72 of them. The data of an FD frame is filled up with zeros to a length that there is.
 * @throws RangeError for data or an id that is too long for such a frame
 */
export function encodeFrame(frame: CanFrame): Uint8Array {
  const longest = frame.fd ? longestFdBytes : longestClassicBytes;
  const length = frame.remote ? frame.dlc : frame.fd ? fdLengthFor(frame.data.length) : frame.data.length;
  if (length > longest || frame.data.length > longest) {
    throw new RangeError(`a ${frame.fd ? "CAN FD" : "classic CAN"} frame holds ${longest} bytes, not ${length}`);
  }
  const mask = frame.extended || frame.error ? EFF_MASK : SFF_MASK;
  if (!Number.isInteger(frame.id) || frame.id < 0 || frame.id > mask) {
    throw new RangeError(`0x${frame.id.toString(16)} is no id of ${frame.extended ? 29 : 11} bits`);
  }
  const bytes = new Uint8Array(frame.fd ? fdBytes : classicBytes);
  const flags = (frame.extended ? EFF_FLAG : 0) + (frame.remote ? RTR_FLAG : 0) + (frame.error ? ERR_FLAG : 0);
  new DataView(bytes.buffer).setUint32(at.id, frame.id + flags, true);
  bytes[at.length] = length;
  if (frame.fd) {
    bytes[at.flags] = FD_FDF | (frame.bitrateSwitch ? FD_BRS : 0) | (frame.errorStateIndicator ? FD_ESI : 0);
  }
  if (!frame.remote) bytes.set(frame.data, at.data);
  return bytes;
}

/** What the bytes do not say. */
export type Arrival = Pick<CanFrame, "timestampS" | "channel" | "sentHere">;

/** A frame with a copy of its data. @returns undefined for what is neither a classic nor an FD frame (CAN XL, say) */
export function decodeFrame(bytes: Uint8Array, arrival: Arrival): CanFrame | undefined {
  const fd = bytes.length === fdBytes;
  if (!fd && bytes.length !== classicBytes) return undefined;
  const word = new DataView(bytes.buffer, bytes.byteOffset).getUint32(at.id, true);
  const length = bytes[at.length] ?? 0;
  if (length > (fd ? longestFdBytes : longestClassicBytes)) return undefined;
  const extended = (word & EFF_FLAG) !== 0;
  const error = (word & ERR_FLAG) !== 0;
  const remote = (word & RTR_FLAG) !== 0;
  const flags = fd ? (bytes[at.flags] ?? 0) : 0;
  return {
    id: word & (extended || error ? EFF_MASK : SFF_MASK),
    extended,
    remote,
    error,
    fd,
    bitrateSwitch: (flags & FD_BRS) !== 0,
    errorStateIndicator: (flags & FD_ESI) !== 0,
    // Not slice(): of a Buffer that is no copy.
    data: remote ? new Uint8Array() : Uint8Array.from(bytes.subarray(at.data, at.data + length)),
    dlc: length,
    ...arrival,
  };
}

/** CAN_RAW_FILTER_MAX of linux/can.h. */
export const filtersLimit = 512;

/** The bytes of struct can_filter, for each filter; null lets everything through. */
export function encodeFilters(filters: readonly CanFilter[] | null): Uint8Array {
  const all = filters ?? [{ id: 0, mask: 0 }];
  const bytes = new Uint8Array(all.length * 8);
  const view = new DataView(bytes.buffer);
  for (const [index, { id, mask, extended }] of all.entries()) {
    const lengthMatters = extended === undefined ? 0 : EFF_FLAG;
    view.setUint32(index * 8, ((id & EFF_MASK) | (extended === true ? EFF_FLAG : 0)) >>> 0, true);
    view.setUint32(index * 8 + 4, ((mask & EFF_MASK) | lengthMatters) >>> 0, true);
  }
  return bytes;
}

/** What the kernel would say. Error frames always pass: they have a mask of their own. */
export function passes(filters: readonly CanFilter[] | null, frame: CanFrame): boolean {
  if (filters === null || frame.error) return true;
  return filters.some(
    ({ id, mask, extended }) =>
      ((id ^ frame.id) & mask & EFF_MASK) === 0 && (extended === undefined || extended === frame.extended),
  );
}

const errorClass = {
  txTimeout: 0x001,
  lostArbitration: 0x002,
  controller: 0x004,
  protocol: 0x008,
  transceiver: 0x010,
  noAcknowledge: 0x020,
  busOff: 0x040,
  busError: 0x080,
  restarted: 0x100,
  counters: 0x200,
} as const;

const controllerProblems: readonly (readonly [number, string])[] = [
  [0x01, "receive buffer overflow"],
  [0x02, "transmit buffer overflow"],
  [0x04, "receive errors at warning level"],
  [0x08, "transmit errors at warning level"],
  [0x10, "error-passive by receive errors"],
  [0x20, "error-passive by transmit errors"],
  [0x40, "error-active again"],
];

const protocolViolations: readonly (readonly [number, string])[] = [
  [0x01, "single bit error"],
  [0x02, "frame format error"],
  [0x04, "bit stuffing error"],
  [0x08, "dominant bit not sent"],
  [0x10, "recessive bit not sent"],
  [0x20, "bus overload"],
  [0x40, "active error announced"],
  [0x80, "while sending"],
];

const places = new Map([
  [0x03, "start of frame"],
  [0x02, "id bits 28 to 21"],
  [0x06, "id bits 20 to 18"],
  [0x04, "substitute RTR"],
  [0x05, "id extension"],
  [0x07, "id bits 17 to 13"],
  [0x0f, "id bits 12 to 5"],
  [0x0e, "id bits 4 to 0"],
  [0x0c, "RTR"],
  [0x0d, "reserved bit 1"],
  [0x09, "reserved bit 0"],
  [0x0b, "data length code"],
  [0x0a, "data"],
  [0x08, "CRC"],
  [0x18, "CRC delimiter"],
  [0x19, "acknowledge slot"],
  [0x1b, "acknowledge delimiter"],
  [0x1a, "end of frame"],
  [0x12, "intermission"],
]);

const transceiverProblems = new Map([
  [0x04, "CANH has no wire"],
  [0x05, "CANH short to battery"],
  [0x06, "CANH short to VCC"],
  [0x07, "CANH short to ground"],
  [0x40, "CANL has no wire"],
  [0x50, "CANL short to battery"],
  [0x60, "CANL short to VCC"],
  [0x70, "CANL short to ground"],
  [0x80, "CANL short to CANH"],
]);

function named(bits: number, names: readonly (readonly [number, string])[]): string[] {
  return names.filter(([bit]) => (bits & bit) !== 0).map(([, name]) => name);
}

/** What an error frame says, in words: `bus-off, no acknowledge`. */
export function describeError({ id, data }: CanFrame): string {
  const byte = (index: number) => data[index] ?? 0;
  const has = (bit: number) => (id & bit) !== 0;
  const texts: string[] = [];
  if (has(errorClass.busOff)) texts.push("bus-off");
  if (has(errorClass.restarted)) texts.push("controller restarted");
  if (has(errorClass.txTimeout)) texts.push("transmission timed out");
  if (has(errorClass.lostArbitration)) {
    texts.push(byte(0) === 0 ? "arbitration lost" : `arbitration lost at bit ${byte(0)}`);
  }
  if (has(errorClass.controller)) {
    const problems = named(byte(1), controllerProblems);
    texts.push(...(problems.length === 0 ? ["controller problem"] : problems));
  }
  if (has(errorClass.protocol)) {
    const place = places.get(byte(3));
    const violations = named(byte(2), protocolViolations);
    const what = violations.length === 0 ? "protocol violation" : violations.join(" ");
    texts.push(place === undefined ? what : `${what} in ${place}`);
  }
  if (has(errorClass.transceiver)) texts.push(transceiverProblems.get(byte(4)) ?? "transceiver problem");
  if (has(errorClass.noAcknowledge)) texts.push("no acknowledge: is another node on the bus?");
  if (has(errorClass.busError)) texts.push("bus error");
  if (has(errorClass.counters)) texts.push(`errors counted: ${byte(6)} sending, ${byte(7)} receiving`);
  return texts.length === 0 ? "unknown error" : texts.join(", ");
}

/** What an error frame says of the controller: it has left the bus, is on it again, or neither. */
export function busOffBy(frame: CanFrame): boolean | undefined {
  if (!frame.error) return undefined;
  if ((frame.id & errorClass.busOff) !== 0) return true;
  return (frame.id & errorClass.restarted) !== 0 ? false : undefined;
}
