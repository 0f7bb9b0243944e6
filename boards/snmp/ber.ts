/** BER (ITU-T X.690), as far as SNMP goes: definite lengths, tags of one byte. */

/** Bytes that are no BER, or not what was expected. */
export class BerError extends Error {}

/** Joins byte strings. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** One element of this tag around its content. */
export function element(tag: number, ...content: readonly Uint8Array[]): Uint8Array {
  const body = concat(content);
  return concat([Uint8Array.of(tag, ...lengthBytes(body.length)), body]);
}

function lengthBytes(length: number): number[] {
  if (length < 0x80) return [length];
  if (length < 0x100) return [0x81, length];
  return [0x82, length >> 8, length & 0xff];
}

/** A whole number of up to 32 bits, in as few bytes as it needs. */
export function integer(value: number, tag = 0x02): Uint8Array {
  const bytes = [value & 0xff];
  for (let rest = Math.floor(value / 256); ; rest = Math.floor(rest / 256)) {
    const isNegative = ((bytes[0] as number) & 0x80) !== 0;
    if ((rest === 0 && !isNegative) || (rest === -1 && isNegative)) return element(tag, Uint8Array.from(bytes));
    bytes.unshift(rest & 0xff);
  }
}

/** An object identifier from its dotted text. */
export function objectIdentifier(dotted: string): Uint8Array {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes: number[] = [];
  for (let arc of [first * 40 + second, ...rest]) {
    const sevens = [arc % 128];
    for (arc = Math.floor(arc / 128); arc > 0; arc = Math.floor(arc / 128)) sevens.unshift((arc % 128) | 0x80);
    bytes.push(...sevens);
  }
  return element(0x06, Uint8Array.from(bytes));
}

/** Reads elements one after the other. Never reads past the bytes it was given. */
export class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }

  /** The next element, whatever it is. @throws BerError */
  next(): { tag: number; content: Uint8Array } {
    const tag = this.#byte();
    let length = this.#byte();
    if (length >= 0x80) {
      let left = length - 0x80;
      if (left < 1 || left > 3) throw new BerError("a length that no datagram can have");
      for (length = 0; left > 0; left -= 1) length = length * 256 + this.#byte();
    }
    const end = this.#at + length;
    if (end > this.#bytes.length) throw new BerError("an element that is cut off");
    const content = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return { tag, content };
  }

  /** Content of the next element, which must have this tag. @throws BerError */
  expect(tag: number): Uint8Array {
    const { tag: found, content } = this.next();
    if (found !== tag) throw new BerError(`tag ${found} where ${tag} is expected`);
    return content;
  }

  /** @throws BerError */
  inside(tag: number): Reader {
    return new Reader(this.expect(tag));
  }

  /** @throws BerError */
  integer(): number {
    return integerFrom(this.expect(0x02));
  }

  #byte(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw new BerError("bytes that end too early");
    this.#at += 1;
    return byte;
  }
}

/** Value of a signed integer's content; exact up to 2^53. @throws BerError */
export function integerFrom(content: Uint8Array): number {
  const value = unsignedFrom(content);
  return ((content[0] as number) & 0x80) === 0 ? value : value - 256 ** content.length;
}

/** Value of content that is never negative, whatever its first bit says. @throws BerError */
export function unsignedFrom(content: Uint8Array): number {
  if (content.length === 0 || content.length > 9) throw new BerError(`a number of ${content.length} bytes`);
  return content.reduce((value, byte) => value * 256 + byte, 0);
}

/** Dotted text of an object identifier's content. @throws BerError */
export function identifierFrom(content: Uint8Array): string {
  const arcs: number[] = [];
  let arc = 0;
  for (const byte of content) {
    arc = arc * 128 + (byte & 0x7f);
    if (arc > 0xffff_ffff) throw new BerError("an arc of more than 32 bits");
    if ((byte & 0x80) !== 0) continue;
    arcs.push(arc);
    arc = 0;
  }
  const [head, ...rest] = arcs;
  if (head === undefined || arc !== 0) throw new BerError("an object identifier that is cut off");
  const first = Math.min(2, Math.floor(head / 40));
  return [first, head - first * 40, ...rest].join(".");
}
