/** Addresses as clients write them, and what esptool 4 and 5 print. */

/** Of a chip whose size nobody said. */
const wholeFlashBytes = 0x40_0000;
const beyondAddresses = 2 ** 32;

/** A number as Python's `int(text, 0)` reads it. @throws Error in Python's words */
export function pythonInt(text: string): number {
  const digits = text.trim().replace(/(?<=[0-9a-fA-FxXoObB])_(?=[0-9a-fA-F])/g, "");
  const value = /^\+?(0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|0+|[1-9][0-9]*)$/.test(digits)
    ? Number(digits.replace(/^\+/, ""))
    : NaN;
  if (Number.isNaN(value)) throw new Error(`invalid literal for int() with base 0: '${text}'`);
  return value;
}

export interface Region {
  readonly address: number;
  readonly bytes: number;
}

/** @param text `address` or nothing. @throws Error */
export function parseAddress(text: string | null | undefined): number {
  const address = pythonInt(text || "0");
  if (address >= beyondAddresses) throw new Error(`there is no address ${text}`);
  return address;
}

/** @param text `address:size`, `address` or nothing. @throws Error */
export function parseRegion(text: string | null | undefined): Region {
  const [start = "0", size, ...more] = (text ?? "0").split(":");
  if (more.length > 0) throw new Error(`'${text}' is not address:size`);
  const region = { address: parseAddress(start), bytes: size === undefined ? wholeFlashBytes : pythonInt(size) };
  if (region.bytes === 0 || region.address + region.bytes > beyondAddresses)
    throw new Error(`there is no region ${text}`);
  return region;
}

/** A number of esptool's words: its fifth release writes them with hyphens. */
export function wordsFor(major: number): (word: string) => string {
  return (word) => (major >= 5 ? word.replaceAll("_", "-") : word);
}

/** @param text of `esptool version` */
export function majorVersion(text: string): number | undefined {
  const [, major] = /^(?:esptool(?:\.py)?\s+)?v?(\d+)\.\d+/m.exec(text) ?? [];
  return major === undefined ? undefined : Number(major);
}

/** What it prints of the chip that it is connected to. @throws Error naming what is missing */
export function chipInfo(text: string): { readonly chip: string; readonly features: string; readonly mac: string } {
  const find = (what: string, pattern: RegExp) => {
    const [, found] = pattern.exec(text) ?? [];
    if (found === undefined) throw new Error(`esptool does not say the ${what}`);
    return found.trim();
  };
  return {
    chip: find("chip", /^(?:Chip type:|Chip is) +(.+)$/m),
    features: find("features", /^Features: +(.+)$/m),
    mac: find("MAC address", /^MAC: +((?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2})/m).toLowerCase(),
  };
}

/** How much of a transfer is done, if a line says that. */
export function percentOf(line: string): number | undefined {
  const [, percent] = /^(?:Writing at|Reading from) 0x[0-9a-fA-F]+.*?(\d{1,3})(?:\.\d+)? ?%/.exec(line) ?? [];
  return percent === undefined ? undefined : Math.min(Number(percent), 100);
}

/** What was written was compared with its checksum. */
export const saysVerified = (text: string): boolean => /^Hash of data verified\.?$/m.test(text);

/** Why it failed, without what surrounds it. */
export function failureOf(text: string): string | undefined {
  return /^(?:A fatal error occurred|A serial exception error occurred): *(.+)$/m.exec(text)?.[1]?.trim();
}
