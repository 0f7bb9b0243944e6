import { AgentError } from "../driver/errors.ts";

/** Deeper values are refused: the wire allows 100 messages inside each other, three per level of a map. */
const deepest = 30;

/**
 * Turns a result into what `google.protobuf.Value` can carry: null, booleans, finite numbers, strings, arrays, plain
 * objects. NaN and infinities become null, dates ISO 8601, maps objects, sets arrays, and bytes text.
 * @throws AgentError E_INVALID for bytes that are not UTF-8 and for things without a wire form.
 */
export function toWire(value: unknown): unknown {
  return convert(value, 0);
}

/** An argument as it came from the wire: a Value without a kind means null. */
export function fromWire(value: unknown): unknown {
  return value === undefined ? null : value;
}

function convert(value: unknown, depth: number): unknown {
  switch (typeof value) {
    case "string":
    case "boolean":
      return value;
    case "number":
      return Number.isFinite(value) ? value : null;
    case "bigint":
      return Number(value);
    case "undefined":
      return null;
    case "object":
      return value === null ? null : convertObject(value, depth);
    case "function":
    case "symbol":
      throw unserializable(typeof value);
  }
}

function convertObject(value: object, depth: number): unknown {
  if (depth >= deepest) throw new AgentError("E_INVALID", `Unable to serialize: nested deeper than ${deepest} levels`);
  if (Array.isArray(value) || value instanceof Set) return Array.from(value, (item) => convert(item, depth + 1));
  if (value instanceof Map) {
    return Object.fromEntries(Array.from(value, ([key, item]) => [String(key), convert(item, depth + 1)]));
  }
  if (value instanceof Uint8Array) return bytesToText(value);
  if (value instanceof Date) return dateToText(value);
  if (value instanceof URL) return value.href;
  const proto: unknown = Object.getPrototypeOf(value);
  if (value instanceof Error || (proto !== Object.prototype && proto !== null && !hasOwnState(value))) {
    throw unserializable(value.constructor.name);
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, convert(item, depth + 1)]));
}

/** Class instances go by their own fields; one without any (a Promise, an iterator) has nothing to send. */
function hasOwnState(value: object): boolean {
  return Object.keys(value).length > 0;
}

function unserializable(what: string): AgentError {
  return new AgentError("E_INVALID", `Unable to serialize unknown type: ${what}`);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function bytesToText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch (error) {
    const { position, byte } = firstInvalidByte(bytes);
    throw new AgentError(
      "E_INVALID",
      `'utf-8' codec can't decode byte 0x${byte.toString(16).padStart(2, "0")} in position ${position}: invalid utf-8`,
      { cause: error },
    );
  }
}

/** Where a strict decoder stops, found by halving: the longest prefix that decodes ends there. */
function firstInvalidByte(bytes: Uint8Array): { position: number; byte: number } {
  let good = 0;
  let bad = bytes.length;
  while (good < bad) {
    const middle = (good + bad + 1) >> 1;
    // A character cut off at the end is no error while more bytes may follow.
    if (decodes(bytes.subarray(0, middle))) good = middle;
    else bad = middle - 1;
  }
  // An incomplete last character decodes as a prefix; it then is itself the culprit.
  const position = good === bytes.length ? incompleteTail(bytes) : good;
  return { position, byte: bytes[position] ?? 0 };
}

function decodes(prefix: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(prefix, { stream: true });
    return true;
  } catch {
    return false;
  }
}

function incompleteTail(bytes: Uint8Array): number {
  let index = bytes.length - 1;
  while (index > 0 && ((bytes[index] ?? 0) & 0xc0) === 0x80) index -= 1;
  return index;
}

/** Fractions of a second only if there are any, then six digits, as the Python exporter writes them. */
function dateToText(date: Date): string {
  if (Number.isNaN(date.getTime())) throw unserializable("Invalid Date");
  const text = date.toISOString();
  return text.endsWith(".000Z") ? text.replace(".000Z", "Z") : text.replace("Z", "000Z");
}
