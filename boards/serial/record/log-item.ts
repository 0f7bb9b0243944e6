import { isUtf8 } from "node:buffer";
import * as z from "zod";
import { AgentError } from "../../../agent/driver/errors.ts";
import { mark, readMark } from "./marks.ts";
import type { Entry } from "./protocol.ts";

/** An entry of a record as `log` tells it. */
export const logItem = z.object({
  seq: z.number(),
  /** RFC 3339, to the millisecond. */
  time: z.string(),
  /** Seconds of the host's CLOCK_MONOTONIC. */
  monotonic_s: z.number(),
  /** Output, whole lines or a part of one; what is not UTF-8 is replaced in it. */
  text: z.string().optional(),
  /** The exact bytes, where `text` is not exact. */
  base64: z.string().optional(),
  mark: mark.optional(),
});
export type LogItem = z.output<typeof logItem>;

/** What `log` may be asked for. */
export const logRequest = z.strictObject({
  /** Number of the first entry. */
  from: z.number().int().nonnegative().optional(),
  /** How far back, such as `10m`, or a point in time in RFC 3339. */
  since: z.string().max(64).optional(),
  /** Only about so many of the last lines. */
  lines: z.number().int().min(0).max(100_000).optional(),
  /** Goes on with what comes from now on. */
  follow: z.boolean().optional(),
});
export type LogRequest = z.output<typeof logRequest>;

/** Undefined for a mark that is not understood. */
export function toLogItem(entry: Entry): LogItem | undefined {
  const { seq, wallUs, monotonicUs, kind } = entry;
  const item = { seq, time: new Date(wallUs / 1_000).toISOString(), monotonic_s: monotonicUs / 1e6 };
  if (kind === "m") {
    const told = readMark(entry);
    return told === undefined ? undefined : { ...item, mark: told };
  }
  const bytes = Buffer.from(entry.payload.buffer, entry.payload.byteOffset, entry.payload.length);
  const text = bytes.toString("utf8");
  return isUtf8(bytes) ? { ...item, text } : { ...item, text, base64: bytes.toString("base64") };
}

const unitMs: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** @returns µs since 1970. @throws AgentError E_INVALID */
export function parseSince(words: string, nowMs: number): number {
  const [, count, unit] = /^(\d{1,6})([smhd])$/.exec(words) ?? [];
  if (count !== undefined && unit !== undefined) return (nowMs - Number(count) * (unitMs[unit] as number)) * 1_000;
  const point = /^\d{4}-\d\d-\d\d/.test(words) ? Date.parse(words) : NaN;
  if (!Number.isNaN(point)) return point * 1_000;
  throw new AgentError("E_INVALID", `'${words}' is no time: 30s, 10m, 2h, 1d or 2026-01-31T12:00:00Z`);
}
