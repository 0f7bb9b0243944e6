/**
 * The packets of TFTP as bytes and numbers: RFC 1350, options of RFC 2347. Packets carry block numbers of 16 bits;
 * transfer.ts and reception.ts count blocks from 1 without end, see {@link blockNumber}.
 */

export const opcode = { rrq: 1, wrq: 2, data: 3, ack: 4, error: 5, oack: 6 } as const;

/** RFC 1350 appendix, and 8 of RFC 2347. */
export const errorCode = {
  undefined: 0,
  fileNotFound: 1,
  accessViolation: 2,
  diskFull: 3,
  illegalOperation: 4,
  unknownTransferId: 5,
  fileExists: 6,
  optionRefused: 8,
} as const;
export type ErrorCode = (typeof errorCode)[keyof typeof errorCode];

/** Bytes before the payload of a DATA packet; also the size of an ACK. */
export const headerBytes = 4;

/** In the order of the packet; names as they were sent. */
export type OptionList = readonly (readonly [name: string, value: string])[];

export interface Request {
  readonly op: "rrq" | "wrq";
  /** Bytes that are not UTF-8 have become U+FFFD. */
  readonly filename: string;
  /** In lower case: `octet`, `netascii`, or whatever else was asked. */
  readonly mode: string;
  readonly options: OptionList;
}

export type Packet =
  | Request
  | { readonly op: "data"; readonly block: number; readonly data: Uint8Array }
  | { readonly op: "ack"; readonly block: number }
  | { readonly op: "error"; readonly code: number; readonly message: string }
  | { readonly op: "oack"; readonly options: OptionList }
  | { readonly op: "malformed"; readonly reason: string };

/** Never throws: what is not TFTP is `malformed`. */
export function parsePacket(bytes: Uint8Array): Packet {
  if (bytes.length < headerBytes) return malformed("Malformed packet");
  const op = uint16(bytes, 0);
  switch (op) {
    case opcode.rrq:
    case opcode.wrq:
      return parseRequest(op === opcode.rrq ? "rrq" : "wrq", bytes);
    case opcode.data:
      return { op: "data", block: uint16(bytes, 2), data: bytes.subarray(headerBytes) };
    case opcode.ack:
      return { op: "ack", block: uint16(bytes, 2) };
    case opcode.error: {
      const [message = ""] = splitAtNuls(bytes.subarray(headerBytes)).strings;
      return { op: "error", code: uint16(bytes, 2), message };
    }
    case opcode.oack:
      return { op: "oack", options: pairs(splitAtNuls(bytes.subarray(2)).strings) };
    default:
      return malformed(`Illegal TFTP operation ${op}`);
  }
}

function parseRequest(op: Request["op"], bytes: Uint8Array): Packet {
  const { strings, terminated } = splitAtNuls(bytes.subarray(2));
  const [filename, mode] = strings;
  if (filename === undefined || mode === undefined || (strings.length === 2 && !terminated)) {
    return malformed("Malformed request: file name and mode must each end with a zero byte");
  }
  if (filename === "") return malformed("Malformed request: the file name is empty");
  // A last string without its zero byte is a cut-off option: better none than half a number.
  const rest = strings.slice(2, terminated ? undefined : -1);
  return { op, filename, mode: mode.toLowerCase(), options: pairs(rest) };
}

/** @returns the bytes of an RRQ or WRQ. */
export function buildRequest(op: Request["op"], filename: string, mode: string, options: OptionList = []): Uint8Array {
  return build(opcode[op], [filename, mode, ...options.flat()]);
}

/** The block number that follows 65535. RFC 1350 names none; 0 is what clients expect unless they ask for 1. */
export type Rollover = 0 | 1;

/** The number that stands in a packet for a block that is counted from 1 without end; ACK 0 answers the OACK. */
export function blockNumber(block: number, rollover: Rollover): number {
  return block <= 0xffff ? block : rollover + ((block - 0x10000) % (0x10000 - rollover));
}

/**
 * How many blocks after `block` the one comes that a packet calls `number`; negative before it. Of the blocks that it
 * may be the nearest is meant.
 */
export function blockDistance(block: number, number: number, rollover: Rollover): number {
  const cycle = 0x10000 - rollover;
  const ahead = (number - blockNumber(block, rollover) + cycle) % cycle;
  return ahead > 0x7fff ? ahead - cycle : ahead;
}

/** @returns the bytes of a DATA packet; `number` is the one of 16 bits. */
export function buildData(number: number, data: Uint8Array): Uint8Array {
  const packet = new Uint8Array(headerBytes + data.length);
  writeDataHeader(packet, 0, number);
  packet.set(data, headerBytes);
  return packet;
}

/** Writes the header of a DATA packet at `offset`. */
export function writeDataHeader(target: Uint8Array, offset: number, number: number): void {
  target[offset] = 0;
  target[offset + 1] = opcode.data;
  target[offset + 2] = (number >>> 8) & 0xff;
  target[offset + 3] = number & 0xff;
}

export function buildAck(number: number): Uint8Array {
  return Uint8Array.of(0, opcode.ack, (number >>> 8) & 0xff, number & 0xff);
}

export function buildError(code: number, message: string): Uint8Array {
  return build(opcode.error, [message], [0, code]);
}

export function buildOack(options: OptionList): Uint8Array {
  return build(opcode.oack, options.flat());
}

function build(op: number, strings: readonly string[], head: readonly number[] = []): Uint8Array {
  const text = new TextEncoder().encode(strings.map((string) => `${string}\0`).join(""));
  const packet = new Uint8Array(2 + head.length + text.length);
  packet.set([0, op, ...head]);
  packet.set(text, 2 + head.length);
  return packet;
}

function uint16(bytes: Uint8Array, offset: number): number {
  return ((bytes[offset] ?? 0) << 8) | (bytes[offset + 1] ?? 0);
}

function malformed(reason: string): Packet {
  return { op: "malformed", reason };
}

/** Zero-terminated strings; `terminated` tells whether the last one had its zero byte. */
function splitAtNuls(bytes: Uint8Array): { strings: string[]; terminated: boolean } {
  if (bytes.length === 0) return { strings: [], terminated: true };
  const strings = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes).split("\0");
  const terminated = bytes[bytes.length - 1] === 0;
  if (terminated) strings.pop();
  return { strings, terminated };
}

function pairs(strings: readonly string[]): OptionList {
  const options: [string, string][] = [];
  for (let index = 0; index + 1 < strings.length; index += 2) {
    options.push([strings[index] ?? "", strings[index + 1] ?? ""]);
  }
  return options;
}
