/**
 * The messages of DHCPv4 as bytes and values: RFC 2131, options of RFC 2132 with overload and, where one is longer than
 * 255 bytes, RFC 3396. Addresses are dotted text, hardware addresses bytes (see {@link macText}).
 */

/** Option 53 (RFC 2132 section 9.6). */
export const messageType = {
  discover: 1,
  offer: 2,
  request: 3,
  decline: 4,
  ack: 5,
  nak: 6,
  release: 7,
  inform: 8,
} as const;

export const bootRequest = 1;
export const bootReply = 2;
export const noAddress = "0.0.0.0";
/** RFC 1700, "hardware type". */
export const ethernet = 1;

/** UDP ports; a PXE client asks a boot server at the last one (PXE 2.1 section 2.2.3). */
export const serverPort = 67;
export const clientPort = 68;
export const pxePort = 4011;

/** Where the parts of a message are (RFC 2131 figure 1). */
const at = { flags: 10, chaddr: 28, sname: 44, file: 108, cookie: 236, options: 240 } as const;
const cookie = [99, 130, 83, 99];
const broadcastFlag = 0x8000;
/** Every client takes an IP datagram of 576 bytes (RFC 2131 section 2); 28 of them are IP and UDP headers. */
export const leastMaxSizeBytes = 576;
const headerBytes = 28;
/** BOOTP clients and relays drop shorter ones (RFC 1542 section 2.1). */
const leastBytes = 300;

const pad = 0;
const end = 255;
const overload = 52;

interface Codec<T> {
  /** Undefined: these bytes are no such value. */
  read(bytes: Uint8Array): T | undefined;
  write(value: T): Uint8Array;
}

const address: Codec<string> = {
  read: (bytes) => (bytes.length === 4 ? bytes.join(".") : undefined),
  write: (text) => Uint8Array.from(text.split("."), Number),
};
const addresses: Codec<readonly string[]> = {
  read: (bytes) =>
    bytes.length > 0 && bytes.length % 4 === 0
      ? Array.from({ length: bytes.length / 4 }, (_, n) => bytes.subarray(4 * n, 4 * n + 4).join("."))
      : undefined,
  write: (list) =>
    Uint8Array.from(
      list.flatMap((text) => text.split(".")),
      Number,
    ),
};
/** Some clients end their texts with a zero byte, which RFC 2132 section 2 tells servers to trim. */
const text: Codec<string> = {
  read: (bytes) => utf8(bytes).replace(/\0+$/, ""),
  write: (value) => new TextEncoder().encode(value),
};
const bytes: Codec<Uint8Array> = { read: (value) => value, write: (value) => value };
const numbers = (width: 1 | 2): Codec<readonly number[]> => ({
  read: (list) =>
    list.length > 0 && list.length % width === 0
      ? Array.from({ length: list.length / width }, (_, n) => uint(list, n * width, width))
      : undefined,
  write: (list) => Uint8Array.from(list.flatMap((value) => uintBytes(value, width))),
});
const number = (width: 1 | 2 | 4): Codec<number> => ({
  read: (value) => (value.length === width ? uint(value, 0, width) : undefined),
  write: (value) => Uint8Array.from(uintBytes(value, width)),
});

const option = <T>(code: number, codec: Codec<T>) => ({ code, codec });

/** The options that are known by name. They are sent in this order, and when space ends the last ones stay behind. */
const table = {
  messageType: option(53, number(1)),
  serverIdentifier: option(54, address),
  /** Of relays; RFC 3046 section 2.2 wants it back as it came. */
  relayAgentInformation: option(82, bytes),
  requestedAddress: option(50, address),
  leaseSeconds: option(51, number(4)),
  /** T1 and T2: when the client asks its server, and when any server, for more time. */
  renewalSeconds: option(58, number(4)),
  rebindingSeconds: option(59, number(4)),
  subnetMask: option(1, address),
  routers: option(3, addresses),
  vendorClass: option(60, text),
  bootFile: option(67, text),
  /** RFC 4578: echoed to PXE clients. First byte 0, then a GUID. */
  clientMachineIdentifier: option(97, bytes),
  /** What it means is the vendor's; for PXE see {@link encapsulate}. */
  vendorInformation: option(43, bytes),
  tftpServerName: option(66, text),
  /** Cisco's TFTP servers, RFC 5859. */
  tftpServers: option(150, addresses),
  dnsServers: option(6, addresses),
  hostName: option(12, text),
  domainName: option(15, text),
  broadcastAddress: option(28, address),
  ntpServers: option(42, addresses),
  message: option(56, text),
  clientIdentifier: option(61, bytes),
  parameterRequestList: option(55, numbers(1)),
  /** Bytes of the IP datagram. */
  maxSizeBytes: option(57, number(2)),
  /** See {@link userClasses}. */
  userClass: option(77, bytes),
  /** RFC 4578 section 2.1: every type the firmware can boot as. */
  architectures: option(93, numbers(2)),
  networkInterfaceIdentifier: option(94, bytes),
} as const;

export type OptionName = keyof typeof table;
/** Values by name. What is not in the table, or is there and malformed, is in `others` by its code, as it came. */
export type DhcpOptions = {
  readonly [Name in OptionName]?: (typeof table)[Name] extends { codec: Codec<infer T> } ? T | undefined : never;
} & { readonly others?: ReadonlyMap<number, Uint8Array> };

const nameOf = new Map(Object.entries(table).map(([name, { code }]) => [code, name as OptionName]));

/** The code of a named option, as the parameter request list has it. */
export function optionCode(name: OptionName): number {
  return table[name].code;
}

export interface DhcpMessage {
  readonly op: number;
  readonly hardwareType: number;
  /** At most 16 bytes. */
  readonly hardwareAddress: Uint8Array;
  readonly hops: number;
  readonly transactionId: number;
  readonly seconds: number;
  /** The client cannot take a unicast before it has its address. */
  readonly broadcast: boolean;
  readonly clientAddress: string;
  readonly yourAddress: string;
  readonly nextServerAddress: string;
  readonly relayAddress: string;
  /** Empty also where the field carries options. At most 64 bytes. */
  readonly serverName: string;
  /** At most 128 bytes. */
  readonly file: string;
  readonly options: DhcpOptions;
}

export interface Malformed {
  readonly malformed: string;
}

/** Never throws. Options that occur more than once are one long option (RFC 3396 section 5). */
export function parseMessage(packet: Uint8Array): DhcpMessage | Malformed {
  if (packet.length < at.options) return { malformed: `${packet.length} bytes are too few for DHCP` };
  if (cookie.some((byte, n) => packet[at.cookie + n] !== byte)) return { malformed: "no DHCP cookie: plain BOOTP" };
  const hardwareBytes = packet[2] ?? 0;
  if (hardwareBytes > 16) return { malformed: `hardware address of ${hardwareBytes} bytes` };
  const found = new Map<number, Uint8Array>();
  const fileField = packet.subarray(at.file, at.cookie);
  const nameField = packet.subarray(at.sname, at.file);
  if (!collectOptions(packet.subarray(at.options), found)) return { malformed: "an option is cut off" };
  const carriers = found.get(overload)?.[0] ?? 0;
  found.delete(overload);
  const fileIsOptions = (carriers & 1) !== 0;
  const nameIsOptions = (carriers & 2) !== 0;
  if (fileIsOptions && !collectOptions(fileField, found)) return { malformed: "an option in `file` is cut off" };
  if (nameIsOptions && !collectOptions(nameField, found)) return { malformed: "an option in `sname` is cut off" };
  found.delete(overload);
  return {
    op: packet[0] ?? 0,
    hardwareType: packet[1] ?? 0,
    hardwareAddress: packet.slice(at.chaddr, at.chaddr + hardwareBytes),
    hops: packet[3] ?? 0,
    transactionId: uint(packet, 4, 4),
    seconds: uint(packet, 8, 2),
    broadcast: (uint(packet, at.flags, 2) & broadcastFlag) !== 0,
    clientAddress: packet.subarray(12, 16).join("."),
    yourAddress: packet.subarray(16, 20).join("."),
    nextServerAddress: packet.subarray(20, 24).join("."),
    relayAddress: packet.subarray(24, 28).join("."),
    serverName: nameIsOptions ? "" : zeroTerminated(nameField),
    file: fileIsOptions ? "" : zeroTerminated(fileField),
    options: namedOptions(found),
  };
}

/** @returns false when an option goes beyond the end. A missing end option is forgiven. */
function collectOptions(field: Uint8Array, found: Map<number, Uint8Array>): boolean {
  for (let offset = 0; offset < field.length;) {
    const code = field[offset] ?? end;
    offset += 1;
    if (code === pad) continue;
    if (code === end) return true;
    const length = field[offset];
    if (length === undefined || offset + 1 + length > field.length) return false;
    const value = field.slice(offset + 1, offset + 1 + length);
    const former = found.get(code);
    found.set(code, former === undefined ? value : concatenate([former, value]));
    offset += 1 + length;
  }
  return true;
}

function namedOptions(found: ReadonlyMap<number, Uint8Array>): DhcpOptions {
  const named: Partial<Record<OptionName, unknown>> = {};
  const others = new Map<number, Uint8Array>();
  for (const [code, value] of found) {
    const name = nameOf.get(code);
    const read = name === undefined ? undefined : table[name].codec.read(value);
    if (name === undefined || read === undefined) others.set(code, value);
    else named[name] = read;
  }
  return { ...named, ...(others.size > 0 && { others }) } as DhcpOptions;
}

/**
 * The bytes of a message that is no longer than the client takes (`maxSizeBytes` of the IP datagram, option 57). What
 * has no room among the options goes into `file` and `sname` if these are empty (option 52), and if nothing is left, not at all.
 */
export function buildMessage(message: DhcpMessage, maxSizeBytes: number = leastMaxSizeBytes): Uint8Array {
  const mostBytes = Math.max(maxSizeBytes, leastMaxSizeBytes) - headerBytes;
  const fields = {
    options: new Field(mostBytes - at.options - overloadBytes),
    file: new Field(message.file === "" ? at.cookie - at.file : 0),
    serverName: new Field(message.serverName === "" ? at.file - at.sname : 0),
  };
  for (const [code, value] of encodedOptions(message.options)) {
    void (fields.options.add(code, value) || fields.file.add(code, value) || fields.serverName.add(code, value));
  }
  const carriers = (fields.file.used ? 1 : 0) | (fields.serverName.used ? 2 : 0);
  const head = carriers === 0 ? [] : [overload, 1, carriers];
  const options = Uint8Array.from([...head, ...fields.options.bytes(), end]);
  const packet = new Uint8Array(Math.max(at.options + options.length, leastBytes));
  const hardware = message.hardwareAddress.subarray(0, 16);
  packet.set([message.op, message.hardwareType, hardware.length, message.hops]);
  packet.set(uintBytes(message.transactionId, 4), 4);
  packet.set(uintBytes(message.seconds, 2), 8);
  packet.set(uintBytes(message.broadcast ? broadcastFlag : 0, 2), at.flags);
  packet.set(address.write(message.clientAddress), 12);
  packet.set(address.write(message.yourAddress), 16);
  packet.set(address.write(message.nextServerAddress), 20);
  packet.set(address.write(message.relayAddress), 24);
  packet.set(hardware, at.chaddr);
  packet.set(
    fields.serverName.used ? fields.serverName.closed() : text.write(message.serverName).subarray(0, 64),
    at.sname,
  );
  packet.set(fields.file.used ? fields.file.closed() : text.write(message.file).subarray(0, 128), at.file);
  packet.set(cookie, at.cookie);
  packet.set(options, at.options);
  return packet;
}

/** The option 52 itself and the end option. */
const overloadBytes = 4;
/** What `file` holds with the zero byte that old firmware needs after a name. */
export const longestFileBytes = 127;

function* encodedOptions(options: DhcpOptions): Generator<[code: number, value: Uint8Array]> {
  for (const [name, { code, codec }] of Object.entries(table)) {
    const value = options[name as OptionName];
    if (value !== undefined) yield [code, (codec as Codec<unknown>).write(value)];
  }
  yield* options.others ?? [];
}

/** Room for whole options. */
class Field {
  readonly #bytes: number[] = [];
  readonly #mostBytes: number;

  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  get used(): boolean {
    return this.#bytes.length > 0;
  }

  /** @returns false when there is no room for it with an end option after it. */
  add(code: number, value: Uint8Array): boolean {
    const pieces = Math.max(1, Math.ceil(value.length / 255));
    if (this.#bytes.length + value.length + 2 * pieces + 1 > this.#mostBytes) return false;
    for (let piece = 0; piece < pieces; piece++) {
      const part = value.subarray(255 * piece, 255 * piece + 255);
      this.#bytes.push(code, part.length, ...part);
    }
    return true;
  }

  bytes(): readonly number[] {
    return this.#bytes;
  }

  closed(): Uint8Array {
    return Uint8Array.from([...this.#bytes, end]);
  }
}

/** Sub-options as PXE has them in option 43 (PXE 2.1 table 2-1), with an end option as its clients expect. */
export function encapsulate(subOptions: ReadonlyMap<number, Uint8Array>): Uint8Array {
  return concatenate([
    ...[...subOptions].map(([code, value]) => Uint8Array.of(code, value.length, ...value)),
    Uint8Array.of(end),
  ]);
}

/** @returns undefined where these are no sub-options. */
export function decapsulate(value: Uint8Array): ReadonlyMap<number, Uint8Array> | undefined {
  const found = new Map<number, Uint8Array>();
  return collectOptions(value, found) ? found : undefined;
}

/**
 * The classes of option 77: RFC 3004 has each with its length before it; iPXE and old DHCP clients send one text as it is.
 */
export function userClasses(value: Uint8Array | undefined): readonly string[] {
  if (value === undefined || value.length === 0) return [];
  const classes: string[] = [];
  for (let offset = 0; offset < value.length;) {
    const length = value[offset] ?? 0;
    if (length === 0 || offset + 1 + length > value.length) return [utf8(value)];
    classes.push(utf8(value.subarray(offset + 1, offset + 1 + length)));
    offset += 1 + length;
  }
  return classes;
}

/** `02:00:00:00:00:01`. */
export function macText(hardwareAddress: Uint8Array): string {
  return Array.from(hardwareAddress, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}

/** The number of a dotted address that is known to be one. */
export function addressNumber(dotted: string): number {
  return uint(address.write(dotted), 0, 4);
}

export function addressText(value: number): string {
  return uintBytes(value, 4).join(".");
}

function uint(from: Uint8Array, offset: number, width: number): number {
  let value = 0;
  for (let n = 0; n < width; n++) value = value * 256 + (from[offset + n] ?? 0);
  return value;
}

function uintBytes(value: number, width: number): number[] {
  return Array.from({ length: width }, (_, n) => Math.floor(value / 256 ** (width - 1 - n)) % 256);
}

function utf8(from: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(from);
}

function zeroTerminated(field: Uint8Array): string {
  const length = field.indexOf(0);
  return utf8(length === -1 ? field : field.subarray(0, length));
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
