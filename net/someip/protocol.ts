/** Messages of SOME/IP and entries of its service discovery (AUTOSAR PRS_SOMEIPProtocol, PRS_SOMEIPServiceDiscovery R22-11). */

export const messageTypes = {
  request: 0x00,
  requestNoReturn: 0x01,
  notification: 0x02,
  response: 0x80,
  error: 0x81,
} as const;

export interface SomeIpMessage {
  readonly serviceId: number;
  /** Of a notification: the event. */
  readonly methodId: number;
  readonly clientId: number;
  readonly sessionId: number;
  readonly protocolVersion: number;
  readonly interfaceVersion: number;
  readonly messageType: number;
  readonly returnCode: number;
  readonly payload: Uint8Array;
}

/** Message id (u32) and length (u32), which counts what follows it. */
const lengthEnd = 8;
const headerBytes = 16;
/** Longer ones are not waited for, as a length may be nonsense. */
const longestMessageBytes = 4 << 20;

export function encodeMessage(message: SomeIpMessage): Uint8Array {
  const bytes = new Uint8Array(headerBytes + message.payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, message.serviceId);
  view.setUint16(2, message.methodId);
  view.setUint32(4, bytes.length - lengthEnd);
  view.setUint16(8, message.clientId);
  view.setUint16(10, message.sessionId);
  bytes.set([message.protocolVersion, message.interfaceVersion, message.messageType, message.returnCode], 12);
  bytes.set(message.payload, headerBytes);
  return bytes;
}

/** The first message in these bytes. @returns undefined if it is not complete, or no SOME/IP */
export function decodeMessage(bytes: Uint8Array): SomeIpMessage | undefined {
  const length = messageBytes(bytes);
  if (length === undefined || length > bytes.length) return undefined;
  const view = viewOf(bytes);
  return {
    serviceId: view.getUint16(0),
    methodId: view.getUint16(2),
    clientId: view.getUint16(8),
    sessionId: view.getUint16(10),
    protocolVersion: view.getUint8(12),
    interfaceVersion: view.getUint8(13),
    messageType: view.getUint8(14),
    returnCode: view.getUint8(15),
    payload: bytes.subarray(headerBytes, length),
  };
}

/** How long the first message of these bytes is. @returns undefined if nobody can tell */
function messageBytes(bytes: Uint8Array): number | undefined {
  if (bytes.length < lengthEnd) return undefined;
  const length = viewOf(bytes).getUint32(4) + lengthEnd;
  return length < headerBytes || length > longestMessageBytes ? undefined : length;
}

/** All messages of a datagram, which may hold several; what is no message ends it. */
export function* splitDatagram(datagram: Uint8Array): Generator<Uint8Array, void, undefined> {
  for (let rest = datagram; rest.length > 0;) {
    const length = messageBytes(rest);
    if (length === undefined || length > rest.length) return;
    yield rest.subarray(0, length);
    rest = rest.subarray(length);
  }
}

/** Cuts messages out of a byte stream, however it is fragmented. Holds one message at most. */
export class MessageSplitter {
  #pieces: Uint8Array[] = [];
  #held = 0;
  #wanted = lengthEnd;

  /** @throws RangeError for a length that no message has; nothing can be split after that */
  *push(chunk: Uint8Array): Generator<Uint8Array, void, undefined> {
    for (let rest = chunk; rest.length > 0;) {
      const piece = rest.subarray(0, this.#wanted - this.#held);
      this.#pieces.push(piece);
      this.#held += piece.length;
      rest = rest.subarray(piece.length);
      if (this.#held < this.#wanted) return;
      const whole = concatenate(this.#pieces, this.#held);
      if (this.#wanted === lengthEnd) {
        const length = messageBytes(whole);
        if (length === undefined) throw new RangeError("the peer does not speak SOME/IP");
        [this.#pieces, this.#wanted] = [[whole], length];
      } else {
        [this.#pieces, this.#held, this.#wanted] = [[], 0, lengthEnd];
        yield whole;
      }
    }
  }
}

function concatenate(pieces: readonly Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** Where somebody listens. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
  readonly protocol: "udp" | "tcp";
}

/** Types of the entries of service discovery, 5.1.2.4. A time to live of 0 takes an offer or a subscription back. */
export const entryTypes = { find: 0x00, offer: 0x01, subscribe: 0x06, subscribeAck: 0x07 } as const;

export const anyInstance = 0xffff;
export const anyVersion = { major: 0xff, minor: 0xffff_ffff } as const;

export interface SdEntry {
  readonly type: number;
  readonly serviceId: number;
  readonly instanceId: number;
  readonly majorVersion: number;
  /** Seconds. */
  readonly ttl: number;
  /** Of the entries find and offer, else 0. */
  readonly minorVersion: number;
  /** Of the entries subscribe and its acknowledgement, else 0. */
  readonly eventgroupId: number;
  readonly endpoints: readonly Endpoint[];
  readonly multicast: readonly Endpoint[];
}

export const discovery = { serviceId: 0xffff, methodId: 0x8100 } as const;
const unicastFlag = 0x40;
const rebootFlag = 0x80;
const entryBytes = 16;
const optionTypes = { ipv4Endpoint: 0x04, ipv4Multicast: 0x14 } as const;
const protocols = { tcp: 6, udp: 17 } as const;

/** A message of service discovery. @param isReboot none of this sender's session numbers has come twice since it began */
export function encodeDiscovery(entries: readonly SdEntry[], sessionId: number, isReboot: boolean): Uint8Array {
  const options = entries.flatMap(({ endpoints }) => endpoints.map(encodeEndpoint));
  const optionsBytes = options.reduce((sum, option) => sum + option.length, 0);
  const payload = new Uint8Array(12 + entries.length * entryBytes + optionsBytes);
  const view = viewOf(payload);
  payload[0] = unicastFlag | (isReboot ? rebootFlag : 0);
  view.setUint32(4, entries.length * entryBytes);
  let firstOption = 0;
  entries.forEach((entry, index) => {
    const at = 8 + index * entryBytes;
    payload.set([entry.type, firstOption, 0, entry.endpoints.length << 4], at);
    firstOption += entry.endpoints.length;
    view.setUint16(at + 4, entry.serviceId);
    view.setUint16(at + 6, entry.instanceId);
    view.setUint32(at + 8, ((entry.majorVersion << 24) | entry.ttl) >>> 0);
    view.setUint32(at + 12, ofEventgroup(entry.type) ? entry.eventgroupId : entry.minorVersion);
  });
  view.setUint32(8 + entries.length * entryBytes, optionsBytes);
  payload.set(concatenate(options, optionsBytes), 12 + entries.length * entryBytes);
  return encodeMessage({
    ...discovery,
    clientId: 0,
    sessionId,
    protocolVersion: 1,
    interfaceVersion: 1,
    messageType: messageTypes.notification,
    returnCode: 0,
    payload,
  });
}

const ofEventgroup = (type: number) => type === entryTypes.subscribe || type === entryTypes.subscribeAck;

function encodeEndpoint({ address, port, protocol }: Endpoint): Uint8Array {
  const option = new Uint8Array(12);
  viewOf(option).setUint16(0, 9);
  option[2] = optionTypes.ipv4Endpoint;
  option.set(address.split(".").map(Number), 4);
  option[9] = protocols[protocol];
  viewOf(option).setUint16(10, port);
  return option;
}

/** The entries of a message of service discovery. @returns undefined for a malformed one */
export function decodeDiscovery(payload: Uint8Array): SdEntry[] | undefined {
  if (payload.length < 12) return undefined;
  const view = viewOf(payload);
  const entriesEnd = 8 + view.getUint32(4);
  if (entriesEnd + 4 > payload.length || (entriesEnd - 8) % entryBytes !== 0) return undefined;
  const optionsEnd = entriesEnd + 4 + view.getUint32(entriesEnd);
  if (optionsEnd > payload.length) return undefined;
  const options = decodeOptions(payload.subarray(entriesEnd + 4, optionsEnd));
  if (options === undefined) return undefined;

  const entries: SdEntry[] = [];
  for (let at = 8; at < entriesEnd; at += entryBytes) {
    const [type = 0, first = 0, second = 0, counts = 0] = payload.subarray(at, at + 4);
    const own = [...options.slice(first, first + (counts >> 4)), ...options.slice(second, second + (counts & 0xf))];
    const last = view.getUint32(at + 12);
    entries.push({
      type,
      serviceId: view.getUint16(at + 4),
      instanceId: view.getUint16(at + 6),
      majorVersion: view.getUint8(at + 8),
      ttl: view.getUint32(at + 8) & 0xff_ffff,
      minorVersion: ofEventgroup(type) ? 0 : last,
      eventgroupId: ofEventgroup(type) ? last & 0xffff : 0,
      endpoints: own.flatMap((option) => (option.type === optionTypes.ipv4Endpoint ? (option.endpoint ?? []) : [])),
      multicast: own.flatMap((option) => (option.type === optionTypes.ipv4Multicast ? (option.endpoint ?? []) : [])),
    });
  }
  return entries;
}

interface Option {
  readonly type: number;
  /** Undefined for what is no endpoint of IPv4. */
  readonly endpoint: Endpoint | undefined;
}

function decodeOptions(bytes: Uint8Array): Option[] | undefined {
  const options: Option[] = [];
  for (let at = 0; at < bytes.length;) {
    if (at + 3 > bytes.length) return undefined;
    const end = at + 3 + viewOf(bytes).getUint16(at);
    if (end > bytes.length) return undefined;
    const option = bytes.subarray(at, end);
    options.push({ type: option[2] ?? 0, endpoint: decodeEndpoint(option) });
    at = end;
  }
  return options;
}

function decodeEndpoint(option: Uint8Array): Endpoint | undefined {
  const [, , type, , ...rest] = option;
  if (option.length !== 12 || (type !== optionTypes.ipv4Endpoint && type !== optionTypes.ipv4Multicast))
    return undefined;
  const protocol = rest[5] === protocols.tcp ? "tcp" : rest[5] === protocols.udp ? "udp" : undefined;
  if (protocol === undefined) return undefined;
  return { address: rest.slice(0, 4).join("."), port: viewOf(option).getUint16(10), protocol };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
