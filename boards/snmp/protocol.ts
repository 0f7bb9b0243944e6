import {
  BerError,
  element,
  identifierFrom,
  integer,
  integerFrom,
  objectIdentifier,
  Reader,
  unsignedFrom,
} from "./ber.ts";

/** PDUs and messages of SNMPv1, v2c (RFC 3416) and v3 (RFC 3412, RFC 3414). */

/** Tags of PDUs. */
export const pduTypes = { get: 0xa0, response: 0xa2, set: 0xa3, report: 0xa8 } as const;

/** What an agent has at an OID; null where it has nothing to show. */
export type Value = number | string | null;

export interface Binding {
  readonly oid: string;
  readonly value: Value;
}

export interface Pdu {
  readonly type: number;
  readonly requestId: number;
  /** 0: no error. */
  readonly errorStatus: number;
  /** Which binding is meant, from 1 on. */
  readonly errorIndex: number;
  readonly bindings: readonly Binding[];
}

const errorNames = (
  "noError tooBig noSuchName badValue readOnly genErr noAccess wrongType wrongLength wrongEncoding wrongValue " +
  "noCreation inconsistentValue resourceUnavailable commitFailed undoFailed authorizationError notWritable inconsistentName"
).split(" ");

/** Name of an error status (RFC 3416 §3). */
export function errorName(status: number): string {
  return errorNames[status] ?? `error ${status}`;
}

/** A request for values (null), or to set whole numbers. */
export function request(type: "get" | "set", requestId: number, bindings: readonly Binding[]): Pdu {
  return { type: pduTypes[type], requestId, errorStatus: 0, errorIndex: 0, bindings };
}

const sequence = 0x30;
const octets = 0x04;
const utf8 = new TextEncoder();
const empty = new Uint8Array();

function encodePdu(pdu: Pdu): Uint8Array {
  const bindings = pdu.bindings.map(({ oid, value }) => {
    const encoded = typeof value === "number" ? integer(value) : element(0x05);
    return element(sequence, objectIdentifier(oid), encoded);
  });
  return element(
    pdu.type,
    ...[integer(pdu.requestId), integer(pdu.errorStatus), integer(pdu.errorIndex)],
    element(sequence, ...bindings),
  );
}

function decodePdu({ tag: type, content }: { tag: number; content: Uint8Array }): Pdu {
  const reader = new Reader(content);
  const [requestId, errorStatus, errorIndex] = [reader.integer(), reader.integer(), reader.integer()];
  const list = reader.inside(sequence);
  const bindings: Binding[] = [];
  while (!list.done) {
    const binding = list.inside(sequence);
    bindings.push({ oid: identifierFrom(binding.expect(0x06)), value: decodeValue(binding.next()) });
  }
  return { type, requestId, errorStatus, errorIndex, bindings };
}

function decodeValue({ tag, content }: { tag: number; content: Uint8Array }): Value {
  switch (tag) {
    case 0x02: // INTEGER
      return integerFrom(content);
    case 0x41: // Counter32
    case 0x42: // Gauge32
    case 0x43: // TimeTicks
    case 0x46: // Counter64
      return unsignedFrom(content);
    case octets:
      return new TextDecoder().decode(content);
    case 0x06:
      return identifierFrom(content);
    case 0x44: // Opaque
      return decodeFloat(content);
    default: // NULL, noSuchObject, noSuchInstance, endOfMibView, IpAddress
      return null;
  }
}

/** A float in an Opaque, as agents of the UCD family wrap it. */
function decodeFloat(content: Uint8Array): Value {
  if (content.length !== 7 || content[0] !== 0x9f || content[1] !== 0x78 || content[2] !== 4) return null;
  const value = new DataView(content.buffer, content.byteOffset + 3, 4).getFloat32(0);
  return Number.isFinite(value) ? value : null;
}

/** Version number on the wire. */
export const versions = { "1": 0, "2c": 1, "3": 3 } as const;

/** A message of v1 or v2c. */
export function encodeCommunityMessage(version: 0 | 1, community: string, pdu: Pdu): Uint8Array {
  return element(sequence, integer(version), element(octets, utf8.encode(community)), encodePdu(pdu));
}

/** @throws BerError for other versions as well */
export function decodeCommunityMessage(bytes: Uint8Array): { version: number; community: string; pdu: Pdu } {
  const message = new Reader(bytes).inside(sequence);
  const version = message.integer();
  if (version !== 0 && version !== 1) throw new BerError(`version ${version}`);
  return {
    version,
    community: new TextDecoder().decode(message.expect(octets)),
    pdu: decodePdu(message.next()),
  };
}

/** Bits of a v3 message's flags. */
export const flags = { authenticated: 1, encrypted: 2, reportable: 4 } as const;

export interface SecuredMessage {
  readonly messageId: number;
  readonly flags: number;
  readonly engineId: Uint8Array;
  readonly engineBoots: number;
  readonly engineTime: number;
  readonly user: string;
  readonly authentication: Uint8Array;
  readonly privacy: Uint8Array;
  /** The scoped PDU: its whole element, or what it was encrypted to. */
  readonly data: Uint8Array;
}

/** The User-based Security Model. */
const usm = 3;
/** What we can take. */
const largestMessage = 65_507;

/** @returns the message, and where in it the authentication code lies */
export function encodeSecuredMessage(message: SecuredMessage): { bytes: Uint8Array; authenticationAt: number } {
  const parameters = element(
    sequence,
    element(octets, message.engineId),
    ...[integer(message.engineBoots), integer(message.engineTime)],
    element(octets, utf8.encode(message.user)),
    ...[element(octets, message.authentication), element(octets, message.privacy)],
  );
  const header = element(
    sequence,
    ...[integer(message.messageId), integer(largestMessage)],
    ...[element(octets, Uint8Array.of(message.flags)), integer(usm)],
  );
  const isEncrypted = (message.flags & flags.encrypted) !== 0;
  const data = isEncrypted ? element(octets, message.data) : message.data;
  const bytes = element(sequence, integer(versions["3"]), header, element(octets, parameters), data);
  // Counted from the end, as the lengths in front have different sizes.
  const behind = element(octets, message.privacy).length + data.length;
  return { bytes, authenticationAt: bytes.length - behind - message.authentication.length };
}

/** @throws BerError for other versions and security models as well */
export function decodeSecuredMessage(bytes: Uint8Array): SecuredMessage & { authenticationAt: number } {
  const message = new Reader(bytes).inside(sequence);
  const version = message.integer();
  if (version !== versions["3"]) throw new BerError(`version ${version}`);
  const header = message.inside(sequence);
  const messageId = header.integer();
  header.integer();
  const [flagByte = 0] = header.expect(octets);
  if (header.integer() !== usm) throw new BerError("another security model");
  const parameters = message.inside(octets).inside(sequence);
  const engineId = parameters.expect(octets);
  const [engineBoots, engineTime] = [parameters.integer(), parameters.integer()];
  const user = new TextDecoder().decode(parameters.expect(octets));
  const authentication = parameters.expect(octets);
  const privacy = parameters.expect(octets);
  const isEncrypted = (flagByte & flags.encrypted) !== 0;
  const data = isEncrypted ? message.expect(octets) : element(sequence, message.expect(sequence));
  return {
    ...{ messageId, flags: flagByte, engineId, engineBoots, engineTime, user, authentication, privacy, data },
    authenticationAt: authentication.byteOffset - bytes.byteOffset,
  };
}

/** A PDU in the default context of an engine. */
export function encodeScopedPdu(engineId: Uint8Array, pdu: Pdu): Uint8Array {
  return element(sequence, element(octets, engineId), element(octets, empty), encodePdu(pdu));
}

/** Takes what follows the element for padding. @throws BerError */
export function decodeScopedPdu(bytes: Uint8Array): Pdu {
  const scoped = new Reader(bytes).inside(sequence);
  scoped.expect(octets);
  scoped.expect(octets);
  return decodePdu(scoped.next());
}
