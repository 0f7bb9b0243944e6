import { createHash } from "node:crypto";
import type { Entry } from "../../driver/entry.ts";

/** Keys whose values do not belong into a digest: a short password could be found from it by trying. */
const secretKey = /pass(word|phrase)?$|secret|token|credential|private|authorization|(access|api|signing)_?key/i;

/**
 * SHA-256 of what an exporter exports, in hex: equal for equal drivers, whatever the order of keys. Secrets count as present, whatever
 * they are.
 */
export function configDigest(exported: Readonly<Record<string, Entry>>): string {
  return createHash("sha256").update(canonical(exported)).digest("hex");
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (key, part: unknown) => {
    if (secretKey.test(key) && part !== undefined && part !== null) return "***";
    if (typeof part === "string") return part.replaceAll(/\/\/[^/@\s]*@/g, "//***@");
    if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).sort(([one], [other]) => (one < other ? -1 : 1)));
  });
}
