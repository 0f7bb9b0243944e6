import { AgentError } from "../../agent/driver/errors.ts";

/** Messages of DoIP, ISO 13400-2:2019: the header (table 16), payload types (table 17) and what is in them. */

export const payloadTypes = {
  negativeAcknowledge: 0x0000,
  identificationRequest: 0x0001,
  identificationRequestByEid: 0x0002,
  identificationRequestByVin: 0x0003,
  announcement: 0x0004,
  routingActivationRequest: 0x0005,
  routingActivationResponse: 0x0006,
  aliveCheckRequest: 0x0007,
  aliveCheckResponse: 0x0008,
  entityStatusRequest: 0x4001,
  entityStatusResponse: 0x4002,
  powerModeRequest: 0x4003,
  powerModeResponse: 0x4004,
  diagnostic: 0x8001,
  diagnosticAcknowledge: 0x8002,
  diagnosticNegativeAcknowledge: 0x8003,
} as const;

export interface DoipMessage {
  readonly type: number;
  readonly payload: Uint8Array;
}

/** Version, inverse version, payload type (u16), payload length (u32). */
const headerBytes = 8;
/** Longer ones are not waited for: an ECU's buffers have some KiB, and a length may be nonsense. */
export const longestPayloadBytes = 1 << 20;

export function encodeMessage(version: number, type: number, payload: Uint8Array = new Uint8Array()): Uint8Array {
  const message = new Uint8Array(headerBytes + payload.length);
  const view = new DataView(message.buffer);
  view.setUint8(0, version);
  view.setUint8(1, version ^ 0xff);
  view.setUint16(2, type);
  view.setUint32(4, payload.length);
  message.set(payload, headerBytes);
  return message;
}

/** Cuts messages out of a byte stream, however it is fragmented. Holds one message at most. */
export class DoipDecoder {
  #header = new Uint8Array(headerBytes);
  #payload: Uint8Array | undefined;
  #filled = 0;

  /** @throws AgentError E_FAILED for what is not DoIP, E_LIMIT for a message without end; nothing can be decoded after that */
  *push(chunk: Uint8Array): Generator<DoipMessage, void, undefined> {
    let rest = chunk;
    while (rest.length > 0 || this.#payload?.length === 0) {
      const target = this.#payload ?? this.#header;
      const taken = rest.subarray(0, target.length - this.#filled);
      target.set(taken, this.#filled);
      this.#filled += taken.length;
      rest = rest.subarray(taken.length);
      if (this.#filled < target.length) return;
      this.#filled = 0;
      if (this.#payload === undefined) this.#payload = new Uint8Array(payloadLength(this.#header));
      else {
        const message = { type: viewOf(this.#header).getUint16(2), payload: this.#payload };
        this.#payload = undefined;
        yield message;
      }
    }
  }
}

function payloadLength(header: Uint8Array): number {
  const [version = 0, inverse = 0] = header;
  if ((version ^ 0xff) !== inverse) throw new AgentError("E_FAILED", "the peer does not speak DoIP");
  const length = viewOf(header).getUint32(4);
  if (length > longestPayloadBytes) {
    throw new AgentError("E_LIMIT", `the peer announces a DoIP message of ${length} bytes`);
  }
  return length;
}

/** A datagram is one message. @throws AgentError as {@link DoipDecoder.push} does */
export function decodeDatagram(datagram: Uint8Array): DoipMessage {
  const [message] = new DoipDecoder().push(datagram);
  if (message === undefined) throw new AgentError("E_FAILED", "a DoIP message is cut off");
  return message;
}

export function routingActivationRequest(clientAddress: number, activationType: number): Uint8Array {
  const payload = new Uint8Array(7);
  viewOf(payload).setUint16(0, clientAddress);
  payload[2] = activationType;
  return payload;
}

export interface RoutingActivation {
  readonly client_logical_address: number;
  readonly logical_address: number;
  readonly response_code: number;
  readonly vm_specific: number | null;
}

export function parseRoutingActivation(payload: Uint8Array): RoutingActivation {
  const view = demand(payload, 9, "routing activation response");
  return {
    client_logical_address: view.getUint16(0),
    logical_address: view.getUint16(2),
    response_code: view.getUint8(4),
    vm_specific: payload.length >= 13 ? view.getUint32(9) : null,
  };
}

/** Table 49; what is not here is reserved or the manufacturer's. */
const activationCodes = new Map([
  [0x00, "the source address is unknown"],
  [0x01, "all sockets are in use"],
  [0x02, "another source address is active on this connection"],
  [0x03, "the source address is active on another connection"],
  [0x04, "authentication is missing"],
  [0x05, "the confirmation was rejected"],
  [0x06, "the activation type is not supported"],
  [0x07, "it wants TLS"],
  [0x11, "it waits for a confirmation"],
]);
export const activationSucceeded = 0x10;

export function describeActivation(code: number): string {
  return `${activationCodes.get(code) ?? "reserved code"} (response code 0x${hexByte(code)})`;
}

export interface AddressedPayload {
  readonly source: number;
  readonly target: number;
  readonly data: Uint8Array;
}

export function buildDiagnostic({ source, target, data }: AddressedPayload): Uint8Array {
  const payload = new Uint8Array(4 + data.length);
  viewOf(payload).setUint16(0, source);
  viewOf(payload).setUint16(2, target);
  payload.set(data, 4);
  return payload;
}

/** A diagnostic message, or its acknowledgement, whose data then begins with the code. */
export function parseAddressed(payload: Uint8Array): AddressedPayload {
  const view = demand(payload, 5, "diagnostic message");
  return { source: view.getUint16(0), target: view.getUint16(2), data: payload.subarray(4) };
}

/** Table 26. */
const diagnosticNackCodes = new Map([
  [0x02, "invalid source address"],
  [0x03, "unknown target address"],
  [0x04, "message too large"],
  [0x05, "out of memory"],
  [0x06, "target unreachable"],
  [0x07, "unknown network"],
  [0x08, "transport protocol error"],
]);

export function describeDiagnosticNack(code: number): string {
  return `${diagnosticNackCodes.get(code) ?? "reserved code"} (NACK code 0x${hexByte(code)})`;
}

/** Table 19. */
const headerNackCodes = ["incorrect pattern format", "unknown payload type", "message too large", "out of memory", "invalid payload length"]; // prettier-ignore

/** A negative acknowledge of the header. */
export function describeHeaderNack(payload: Uint8Array): string {
  const code = payload[0] ?? 0xff;
  return `${headerNackCodes[code] ?? "reserved code"} (NACK code 0x${hexByte(code)})`;
}

export interface VehicleIdentification {
  readonly vin: string;
  readonly logical_address: number;
  readonly eid: string;
  readonly gid: string;
  readonly further_action: number;
  readonly sync_status: number | null;
}

/** Table 5: VIN (17), logical address (u16), EID (6), GID (6), further action, and maybe the synchronization status. */
export function parseIdentification(payload: Uint8Array): VehicleIdentification {
  const view = demand(payload, 32, "vehicle identification");
  const hex = (start: number, end: number) => Array.from(payload.subarray(start, end), hexByte).join("");
  return {
    // ECUs without one fill it with 0x00 or 0xFF: no code page knows better.
    vin: String.fromCharCode(...payload.subarray(0, 17)),
    logical_address: view.getUint16(17),
    eid: hex(19, 25),
    gid: hex(25, 31),
    further_action: view.getUint8(31),
    sync_status: payload.length >= 33 ? view.getUint8(32) : null,
  };
}

export interface EntityStatus {
  readonly node_type: number;
  readonly max_open_sockets: number;
  readonly currently_open_sockets: number;
  readonly max_data_size: number | null;
}

export function parseEntityStatus(payload: Uint8Array): EntityStatus {
  const view = demand(payload, 3, "entity status");
  return {
    node_type: view.getUint8(0),
    max_open_sockets: view.getUint8(1),
    currently_open_sockets: view.getUint8(2),
    max_data_size: payload.length >= 7 ? view.getUint32(3) : null,
  };
}

export function parsePowerMode(payload: Uint8Array): { diagnostic_power_mode: number } {
  return { diagnostic_power_mode: demand(payload, 1, "diagnostic power mode").getUint8(0) };
}

export function aliveCheckResponse(clientAddress: number): Uint8Array {
  return Uint8Array.of(clientAddress >> 8, clientAddress & 0xff);
}

export function parseAliveCheck(payload: Uint8Array): { source_address: number } {
  return { source_address: demand(payload, 2, "alive check response").getUint16(0) };
}

function demand(payload: Uint8Array, bytes: number, what: string): DataView {
  if (payload.length >= bytes) return viewOf(payload);
  throw new AgentError("E_FAILED", `the ECU sent a ${what} of ${payload.length} bytes, which is too short`);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function hexByte(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}
