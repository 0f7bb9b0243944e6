import { isDeepStrictEqual } from "node:util";
import type { ExporterConfig } from "../config/schema.ts";

/** With one of these another exporter begins, or one of another controller; the old one says goodbye first. */
const identityKeys = ["metadata", "endpoint", "grpcOptions"] as const;

/** What of a configuration is not the same in another one, by the names of its keys. */
export function changedKeys(before: ExporterConfig, after: ExporterConfig): (keyof ExporterConfig)[] {
  const keys = new Set([...Object.keys(before), ...Object.keys(after)] as (keyof ExporterConfig)[]);
  return [...keys].filter((key) => !isDeepStrictEqual(before[key], after[key]));
}

export function changesIdentity(changes: readonly (keyof ExporterConfig)[]): boolean {
  return changes.some((key) => (identityKeys as readonly string[]).includes(key));
}
