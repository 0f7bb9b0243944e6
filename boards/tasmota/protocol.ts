/** The part of MQTT 3.1.1 (OASIS, 2014) that a visitor to a broker needs: CONNECT, SUBSCRIBE, PUBLISH, PINGREQ, DISCONNECT. */

const kinds = {
  connect: 1,
  connack: 2,
  publish: 3,
  puback: 4,
  subscribe: 8,
  suback: 9,
  pingreq: 12,
  pingresp: 13,
  disconnect: 14,
};

/** Bytes of packets that all have the same; others that speak at this port are soon found out. */
const sizes = new Map([
  [kinds.connack, 2],
  [kinds.puback, 2],
  [kinds.pingresp, 0],
]);

export interface Message {
  readonly topic: string;
  readonly payload: string;
  /** It is what the broker had kept, not news. */
  readonly retained: boolean;
}

export type Packet =
  | { readonly kind: "connack"; readonly code: number }
  | { readonly kind: "puback"; readonly id: number }
  | { readonly kind: "suback"; readonly id: number; readonly codes: readonly number[] }
  | { readonly kind: "pingresp" }
  | ({ readonly kind: "publish" } & Message)
  | { readonly kind: "other" };

/** Bytes that are no MQTT, or more than a plug would ever say. */
export class MqttError extends Error {}

/** Why a broker does not let us in (§3.2.2.3). */
export function refusal(code: number): string {
  const reasons = ["", "it speaks another version", "it does not take this client_id", "it is not available"];
  return [...reasons, "wrong user name or password", "not authorized"][code] ?? `reason ${code}`;
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

function string(value: string): number[] {
  const bytes = utf8.encode(value);
  return [bytes.length >> 8, bytes.length & 0xff, ...bytes];
}

function packet(kind: number, flags: number, body: readonly number[]): Uint8Array {
  const length: number[] = [];
  for (let rest = body.length; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) {
      length.push(rest);
      break;
    }
    length.push((rest % 128) | 0x80);
  }
  return Uint8Array.of((kind << 4) | flags, ...length, ...body);
}

export interface Login {
  /** Empty: the broker makes one up. */
  readonly clientId: string;
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** The broker may cut us off after one and a half times this long without a word. */
  readonly keepAliveS: number;
}

/** With a clean session: the broker keeps nothing for us. */
export function connect({ clientId, username, password, keepAliveS }: Login): Uint8Array {
  const clean = 0x02;
  const flags = clean | (username === undefined ? 0 : 0x80) | (password === undefined ? 0 : 0x40);
  return packet(kinds.connect, 0, [
    ...[...string("MQTT"), 4, flags, keepAliveS >> 8, keepAliveS & 0xff],
    ...string(clientId),
    ...(username === undefined ? [] : string(username)),
    ...(password === undefined ? [] : string(password)),
  ]);
}

/** With QoS 0. */
export function subscribe(id: number, topics: readonly string[]): Uint8Array {
  return packet(kinds.subscribe, 0x02, [id >> 8, id & 0xff, ...topics.flatMap((topic) => [...string(topic), 0])]);
}

/** With QoS 1, not to be retained. */
export function publish(id: number, topic: string, payload: string): Uint8Array {
  return packet(kinds.publish, 0x02, [...string(topic), id >> 8, id & 0xff, ...utf8.encode(payload)]);
}

export const pingRequest = (): Uint8Array => packet(kinds.pingreq, 0, []);
export const disconnect = (): Uint8Array => packet(kinds.disconnect, 0, []);

/** A plug's longest messages have about a KiB. */
const mostPacketBytes = 256 * 1024;

/** Cuts a broker's bytes into packets. */
export class Packets {
  #pending = new Uint8Array();

  /** @returns what is whole now. @throws MqttError: nothing can be read after it */
  push(chunk: Uint8Array): Packet[] {
    const bytes = new Uint8Array(this.#pending.length + chunk.length);
    bytes.set(this.#pending);
    bytes.set(chunk, this.#pending.length);
    const found: Packet[] = [];
    let at = 0;
    for (;;) {
      const frame = frameAt(bytes, at);
      if (frame === undefined) break;
      found.push(decode(bytes[at] as number, bytes.subarray(frame.from, frame.to)));
      at = frame.to;
    }
    this.#pending = bytes.slice(at);
    return found;
  }
}

function frameAt(bytes: Uint8Array, at: number): { from: number; to: number } | undefined {
  let length = 0;
  for (let index = 0; index < 4; index += 1) {
    const byte = bytes[at + 1 + index];
    if (byte === undefined) return undefined;
    length += (byte & 0x7f) * 128 ** index;
    if (length > mostPacketBytes) throw new MqttError(`a packet of ${length} bytes or more`);
    if ((byte & 0x80) !== 0) continue;
    const kind = (bytes[at] as number) >> 4;
    if ((sizes.get(kind) ?? length) !== length) throw new MqttError(`no MQTT: packet ${kind} with ${length} bytes`);
    const from = at + 2 + index;
    return from + length > bytes.length ? undefined : { from, to: from + length };
  }
  throw new MqttError("a length without end");
}

function decode(first: number, body: Uint8Array): Packet {
  const uint16 = (at: number): number => {
    if (at + 2 > body.length) throw new MqttError("a packet that is cut off");
    return (body[at] as number) * 256 + (body[at + 1] as number);
  };
  switch (first >> 4) {
    case kinds.connack:
      return { kind: "connack", code: uint16(0) & 0xff };
    case kinds.puback:
      return { kind: "puback", id: uint16(0) };
    case kinds.suback:
      return { kind: "suback", id: uint16(0), codes: [...body.subarray(2)] };
    case kinds.pingresp:
      return { kind: "pingresp" };
    case kinds.publish: {
      const end = 2 + uint16(0);
      if (end > body.length) throw new MqttError("a packet that is cut off");
      const hasId = (first & 0x06) !== 0;
      return {
        kind: "publish",
        topic: text.decode(body.subarray(2, end)),
        payload: text.decode(body.subarray(hasId ? end + 2 : end)),
        retained: (first & 0x01) !== 0,
      };
    }
    default:
      return { kind: "other" };
  }
}
