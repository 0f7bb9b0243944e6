import { AgentError } from "../../agent/driver/errors.ts";

/** Packets of XCP, ASAM MCD-1 XCP 1.5 part 2: commands (CTO of the master) and responses. */

export const commands = {
  CONNECT: 0xff,
  DISCONNECT: 0xfe,
  GET_STATUS: 0xfd,
  SYNCH: 0xfc,
  GET_ID: 0xfa,
  SET_MTA: 0xf6,
  UPLOAD: 0xf5,
  SHORT_UPLOAD: 0xf4,
  BUILD_CHECKSUM: 0xf3,
  DOWNLOAD: 0xf0,
  SET_DAQ_PTR: 0xe2,
  WRITE_DAQ: 0xe1,
  SET_DAQ_LIST_MODE: 0xe0,
  START_STOP_DAQ_LIST: 0xde,
  START_STOP_SYNCH: 0xdd,
  GET_DAQ_PROCESSOR_INFO: 0xda,
  GET_DAQ_RESOLUTION_INFO: 0xd9,
  GET_DAQ_EVENT_INFO: 0xd7,
  FREE_DAQ: 0xd6,
  ALLOC_DAQ: 0xd5,
  ALLOC_ODT: 0xd4,
  ALLOC_ODT_ENTRY: 0xd3,
  PROGRAM_START: 0xd2,
  PROGRAM_CLEAR: 0xd1,
  PROGRAM: 0xd0,
  PROGRAM_RESET: 0xcf,
} as const;

export type CommandName = keyof typeof commands;

export type ByteOrder = "INTEL" | "MOTOROLA";

/** Table 13 on. */
const errorNames: ReadonlyMap<number, string> = new Map([
  [0x00, "ERR_CMD_SYNCH"],
  [0x10, "ERR_CMD_BUSY"],
  [0x11, "ERR_DAQ_ACTIVE"],
  [0x12, "ERR_PGM_ACTIVE"],
  [0x20, "ERR_CMD_UNKNOWN"],
  [0x21, "ERR_CMD_SYNTAX"],
  [0x22, "ERR_OUT_OF_RANGE"],
  [0x23, "ERR_WRITE_PROTECTED"],
  [0x24, "ERR_ACCESS_DENIED"],
  [0x25, "ERR_ACCESS_LOCKED"],
  [0x26, "ERR_PAGE_NOT_VALID"],
  [0x27, "ERR_MODE_NOT_VALID"],
  [0x28, "ERR_SEGMENT_NOT_VALID"],
  [0x29, "ERR_SEQUENCE"],
  [0x2a, "ERR_DAQ_CONFIG"],
  [0x30, "ERR_MEMORY_OVERFLOW"],
  [0x31, "ERR_GENERIC"],
  [0x32, "ERR_VERIFY"],
  [0x33, "ERR_RESOURCE_TEMPORARY_NOT_ACCESSIBLE"],
  [0x34, "ERR_SUBCMD_UNKNOWN"],
  [0x35, "ERR_TIMECORR_STATE_CHANGE"],
]);
export const errorCodes = { synch: 0x00, unknownCommand: 0x20 } as const;

/** A slave's answer "no" to a command. */
export class XcpRefusal extends AgentError {
  readonly errorCode: number;

  constructor(command: CommandName, errorCode: number) {
    const name = errorNames.get(errorCode) ?? "unknown error";
    super("E_FAILED", `the slave refuses ${command}: ${name} (0x${errorCode.toString(16).padStart(2, "0")})`);
    this.errorCode = errorCode;
  }
}

export type Packet =
  /** What follows the packet id. */
  | { readonly kind: "response"; readonly data: Uint8Array }
  | { readonly kind: "error"; readonly code: number }
  /** The slave needs more time for the command. */
  | { readonly kind: "pending" }
  /** Other events, requests for service, measured data. */
  | { readonly kind: "other" };

const commandPending = 0x05;

export function parsePacket(packet: Uint8Array): Packet {
  const [id, code] = packet;
  if (id === 0xff) return { kind: "response", data: packet.subarray(1) };
  if (id === 0xfe && code !== undefined) return { kind: "error", code };
  return id === 0xfd && code === commandPending ? { kind: "pending" } : { kind: "other" };
}

/** A packet of a command, field by field. */
export class CommandPacket {
  readonly name: CommandName;
  readonly #bytes: number[];
  readonly #little: boolean;

  constructor(name: CommandName, order: ByteOrder) {
    this.name = name;
    this.#bytes = [commands[name]];
    this.#little = order === "INTEL";
  }

  bytes(...values: readonly number[]): this {
    this.#bytes.push(...values);
    return this;
  }

  u16(value: number): this {
    const bytes = [value & 0xff, value >> 8];
    return this.bytes(...(this.#little ? bytes : bytes.reverse()));
  }

  u32(value: number): this {
    const bytes = [value, value >>> 8, value >>> 16, value >>> 24].map((each) => each & 0xff);
    return this.bytes(...(this.#little ? bytes : bytes.reverse()));
  }

  get packet(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

/** Reads a response in its byte order. */
export class ResponseReader {
  readonly #view: DataView;
  readonly #little: boolean;
  readonly #name: CommandName;
  readonly data: Uint8Array;

  constructor(name: CommandName, data: Uint8Array, order: ByteOrder) {
    this.#name = name;
    this.data = data;
    this.#view = new DataView(data.buffer, data.byteOffset, data.length);
    this.#little = order === "INTEL";
  }

  u8(at: number): number {
    this.demand(at + 1);
    return this.#view.getUint8(at);
  }

  u16(at: number): number {
    this.demand(at + 2);
    return this.#view.getUint16(at, this.#little);
  }

  u32(at: number): number {
    this.demand(at + 4);
    return this.#view.getUint32(at, this.#little);
  }

  slice(at: number, bytes: number): Uint8Array {
    this.demand(at + bytes);
    return this.data.subarray(at, at + bytes);
  }

  /** @throws AgentError E_FAILED for a response that is shorter */
  demand(bytes: number): void {
    if (this.data.length >= bytes) return;
    throw new AgentError("E_FAILED", `the slave's response to ${this.#name} is too short (${this.data.length} bytes)`);
  }
}

export interface SlaveProperties {
  readonly max_cto: number;
  readonly max_dto: number;
  readonly byte_order: ByteOrder;
  readonly supports_pgm: boolean;
  readonly supports_stim: boolean;
  readonly supports_daq: boolean;
  readonly supports_calpag: boolean;
  readonly protocol_layer_version: number;
  readonly transport_layer_version: number;
  readonly address_granularity: "BYTE" | "WORD" | "DWORD";
  readonly slave_block_mode: boolean;
}

/** Bits of resources, in what a slave has and in what it protects. */
export const resources = { dbg: 0x20, pgm: 0x10, stim: 0x08, daq: 0x04, calpag: 0x01 } as const;
export type ResourceName = keyof typeof resources;

/** An address step is so many bytes. */
export const granularityBytes = { BYTE: 1, WORD: 2, DWORD: 4 } as const;
/** Less than that no transport layer has. */
const leastCtoBytes = 8;

export function parseConnect(data: Uint8Array): SlaveProperties {
  const mode = data[1] ?? 0;
  const order = (mode & 1) === 0 ? "INTEL" : "MOTOROLA";
  const response = new ResponseReader("CONNECT", data, order);
  response.demand(7);
  const has = (resource: ResourceName) => (response.u8(0) & resources[resource]) !== 0;
  const granularity = (["BYTE", "WORD", "DWORD"] as const)[(mode >> 1) & 3];
  if (granularity === undefined || response.u8(2) < leastCtoBytes) {
    throw new AgentError("E_FAILED", "the slave's response to CONNECT makes no sense");
  }
  return {
    max_cto: response.u8(2),
    max_dto: response.u16(3),
    byte_order: order,
    supports_pgm: has("pgm"),
    supports_stim: has("stim"),
    supports_daq: has("daq"),
    supports_calpag: has("calpag"),
    protocol_layer_version: response.u8(5),
    transport_layer_version: response.u8(6),
    address_granularity: granularity,
    slave_block_mode: (mode & 0x40) !== 0,
  };
}

export interface SlaveStatus {
  readonly session_status: Record<string, boolean | number>;
  readonly resource_protection: Record<ResourceName, boolean>;
}

/** Bits of the session's status. */
const sessionBits = {
  resume: 0x80,
  daqRunning: 0x40,
  DaqCfgLost: 0x10,
  clearDaqRequest: 0x08,
  storeDaqRequest: 0x04,
  calPagCfgLost: 0x02,
  storeCalRequest: 0x01,
} as const;

export function parseStatus(response: ResponseReader): SlaveStatus {
  const [session, protection] = [response.u8(0), response.u8(1)];
  const flags = Object.entries(sessionBits).map(([name, bit]) => [name, (session & bit) !== 0] as const);
  const isLocked = (resource: ResourceName) => (protection & resources[resource]) !== 0;
  return {
    session_status: {
      ...Object.fromEntries(flags),
      stateNumber: response.u8(2),
      sessionConfiguration: response.u16(3),
    },
    resource_protection: {
      dbg: isLocked("dbg"),
      pgm: isLocked("pgm"),
      stim: isLocked("stim"),
      daq: isLocked("daq"),
      calpag: isLocked("calpag"),
    },
  };
}
