// POSIX.1-2017, "ustar Interchange Format", as far as image layouts need it: the names and sizes in them fit into its
// fields, so that pax headers say nothing new.
export const tarBlockBytes = 512;

const largestOctalSize = 0o77777777777;
const checksumField = { start: 148, end: 156 };

export interface TarHeader {
  readonly path: string;
  readonly size: number;
  readonly isFile: boolean;
}

/** The header of a file: the same whenever, wherever and by whomever it is made. */
export function writeTarHeader(path: string, size: number): Buffer {
  const header = Buffer.alloc(tarBlockBytes);
  header.write(path, 0, 100);
  header.write("0000644\0" + "0000000\0" + "0000000\0", 100);
  if (size <= largestOctalSize) header.write(`${octal(size, 11)}\0`, 124);
  else {
    // GNU tar's binary numbers.
    header[124] = 0x80;
    header.writeBigUInt64BE(BigInt(size), 128);
  }
  header.write(`${octal(0, 11)}\0`, 136);
  header.write("0", 156);
  header.write("ustar\0" + "00", 257);
  header.write(`${octal(checksum(header), 6)}\0 `, checksumField.start);
  return header;
}

/** @returns undefined if the block is no header */
export function readTarHeader(block: Buffer): TarHeader | undefined {
  const size = (block[124] ?? 0) & 0x80 ? Number(block.readBigUInt64BE(128)) : readOctal(block.subarray(124, 136));
  if (
    block.length < tarBlockBytes ||
    readOctal(block.subarray(checksumField.start, checksumField.end)) !== checksum(block)
  )
    return undefined;
  if (size === undefined || !Number.isSafeInteger(size)) return undefined;
  const prefix = block.toString("latin1", 257, 263) === "ustar\0" ? text(block.subarray(345, 500)) : "";
  const name = text(block.subarray(0, 100));
  const path = (prefix === "" ? name : `${prefix}/${name}`).replace(/^(\.\/)+/, "");
  return { path, size, isFile: ["0", "\0"].includes(String.fromCharCode(block[156] ?? 0)) };
}

/** Sum of all bytes, those of the sum itself taken for spaces. */
function checksum(header: Buffer): number {
  const { start, end } = checksumField;
  return header.reduce((sum, byte, at) => sum + (at >= start && at < end ? 0x20 : byte), 0);
}

function readOctal(field: Buffer): number | undefined {
  const digits = text(field).trim();
  return /^[0-7]+$/.test(digits) ? parseInt(digits, 8) : undefined;
}

/** Text up to the first NUL. */
function text(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("utf8", 0, end < 0 ? bytes.length : end);
}

const octal = (value: number, digits: number) => value.toString(8).padStart(digits, "0");
