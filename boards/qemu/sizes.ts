import { AgentError } from "../../agent/driver/errors.ts";

const binary = ["", "k", "m", "g", "t"];
const units = new Map<string, number>([
  ["b", 1],
  // A single letter is a power of 1024; as a unit of its own, it is what it says.
  ...binary.map((letter, power): [string, number] => [letter, 2 ** (10 * power)]),
  ...binary.slice(1).map((letter, index): [string, number] => [`${letter}ib`, 2 ** (10 * (index + 1))]),
  ...binary.slice(1).map((letter, index): [string, number] => [`${letter}b`, 10 ** (3 * (index + 1))]),
]);

/** `20G` and `20GiB` are powers of 1024, `20GB` of 1000, a bare number is bytes. @returns undefined for what is no size above zero */
export function parseSize(text: string): number | undefined {
  const [, number, unit = ""] = /^\s*(\d*\.?\d+)\s*([a-z]*)\s*$/i.exec(text) ?? [];
  const bytes = Math.floor(Number(number) * (units.get(unit.toLowerCase()) ?? NaN));
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined;
}

/** @throws AgentError E_INVALID with the text that clients show */
export function sizeOf(text: string): number {
  const bytes = parseSize(text);
  if (bytes !== undefined) return bytes;
  throw new AgentError("E_INVALID", `Invalid size: '${text}'. Use e.g. '20G', '512M', '2T'`);
}

/** For people: `20.0GiB`. */
export function formatSize(bytes: number): string {
  let [value, unit] = [bytes, 0];
  for (; value >= 1024 && unit < 5; unit += 1) value /= 1024;
  return unit === 0 ? `${value}B` : `${value.toFixed(1)}${["", "K", "M", "G", "T", "P"][unit]}iB`;
}
