/**
 * What ADB's clients and its server say to each other: four hex digits of length and the name of a service; then `OKAY` or
 * `FAIL`, and for most services a text with its length. Source: AOSP, packages/modules/adb/docs/dev/services.md.
 */

/** What a server's answer has at most; the longest is a list of devices. */
export const longestAnswer = 0xffff;

const statusBytes = 4;
const lengthBytes = 4;

/** @throws RangeError for a name that does not fit the length field */
export function request(service: string): Uint8Array {
  const name = new TextEncoder().encode(service);
  if (name.length > longestAnswer) throw new RangeError("the name of the service is too long");
  const head = new TextEncoder().encode(name.length.toString(16).padStart(4, "0"));
  const bytes = new Uint8Array(head.length + name.length);
  bytes.set(head);
  bytes.set(name, head.length);
  return bytes;
}

export interface Answer {
  readonly ok: boolean;
  /** Empty for a service that answers with its status alone. */
  readonly text: string;
}

/**
 * Reads an answer from what has come so far.
 * @param hasText whether the service gives a text when all went well; a failure always has one
 * @returns undefined while the rest is still to come, `garbage` if this is no ADB server
 */
export function readAnswer(bytes: Uint8Array, hasText: boolean): Answer | "garbage" | undefined {
  const ascii = (from: number, to: number) => String.fromCharCode(...bytes.subarray(from, to));
  const status = ascii(0, statusBytes);
  if (!["OKAY", "FAIL"].some((known) => known.startsWith(status))) return "garbage";
  if (bytes.length < statusBytes) return undefined;
  const ok = status === "OKAY";
  if (ok && !hasText) return { ok, text: "" };
  const start = statusBytes + lengthBytes;
  const length = ascii(statusBytes, start);
  if (!/^[0-9a-f]*$/i.test(length)) return "garbage";
  if (bytes.length < start) return undefined;
  const end = start + parseInt(length, 16);
  if (bytes.length < end) return undefined;
  return { ok, text: new TextDecoder().decode(bytes.subarray(start, end)) };
}

/** `host:connect` succeeds as a service whether or not the device answers; its text tells. */
export function isConnected(text: string): boolean {
  return /^(already )?connected to /.test(text);
}
