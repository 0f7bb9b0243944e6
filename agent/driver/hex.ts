import * as z from "zod";

/**
 * Bytes as clients send them in an argument: hexadecimal digits, two a byte, with white space between bytes as Python's
 * `bytes.fromhex` takes it. Answers the bytes.
 */
export function hexBytes() {
  return z
    .string()
    .transform((text) => text.replaceAll(/[ \t\r\n]+/g, ""))
    .refine((text) => /^([0-9a-fA-F]{2})*$/.test(text), "must be hexadecimal digits, two for each byte")
    .transform((text): Uint8Array => Buffer.from(text, "hex"));
}

/** The same bytes as lower-case digits. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("hex");
}
