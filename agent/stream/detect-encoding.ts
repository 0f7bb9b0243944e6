import type { ContentEncoding } from "../driver/resource.ts";

const magics: readonly (readonly [ContentEncoding, string])[] = [
  ["gzip", "1f8b08"],
  ["xz", "fd377a585a00"],
  ["bz2", "425a68"],
  ["zstd", "28b52ffd"],
];
const suffixes: Readonly<Record<string, ContentEncoding>> = { gz: "gzip", xz: "xz", bz2: "bz2", zst: "zstd" };

/** How many bytes of a file tell its encoding. */
export const magicBytes = 6;

/** The encoding that a file's first bytes show; null for none. */
export function encodingOf(start: Uint8Array): ContentEncoding | null {
  const hex = Buffer.from(start.subarray(0, magicBytes)).toString("hex");
  return magics.find(([, magic]) => hex.startsWith(magic))?.[0] ?? null;
}

/** The encoding that a file's name promises. */
export function promisedEncoding(name: string): ContentEncoding | undefined {
  return suffixes[/\.(\w+)$/.exec(name)?.[1]?.toLowerCase() ?? ""];
}
