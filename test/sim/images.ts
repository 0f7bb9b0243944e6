import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** Packs a file with zstd. @returns what came out */
export function zstdImage(from: string, to: string): Buffer {
  execFileSync("zstd", ["-q", "-f", from, "-o", to]);
  return readFileSync(to);
}
