import { setImmediate } from "node:timers/promises";
import type { ConsoleEntry, ShownConsole } from "../../driver/shown.ts";
import type { EventStream } from "./event-stream.ts";

/** Entries go out together, as eyes see no more than this. */
const gatherMs = 100;
const gatherBytes = 64 * 1024;
/** What a reader of the past gets at once. */
const mostEntries = 4_000;
const mostTextBytes = 1024 * 1024;
const mostMatches = 200;
/** A search gives way to others after so much. */
const turnBytes = 256 * 1024;
const longestMatch = 2_000;

export type Readable = Required<Pick<ShownConsole, "read">>;

/** Sends what a console prints, from some of its last lines on, until the reader has gone. A slow reader misses what is overwritten. */
export async function followConsole(console: Readable, stream: EventStream, lines: number): Promise<void> {
  const { signal } = stream;
  let batch: ConsoleEntry[] = [];
  let bytes = 0;
  let timer: NodeJS.Timeout | undefined;
  let sending: Promise<void> = Promise.resolve();
  const flush = () => {
    clearTimeout(timer);
    timer = undefined;
    const entries = batch;
    batch = [];
    bytes = 0;
    sending = stream.send("entries", entries);
  };
  try {
    for await (const entry of console.read({ lines, follow: true }, signal)) {
      batch.push(entry);
      bytes += entry.text?.length ?? 0;
      timer ??= setTimeout(flush, gatherMs).unref();
      if (bytes < gatherBytes) continue;
      await sending;
      if (bytes > 0) flush();
    }
  } finally {
    clearTimeout(timer);
  }
}

/** Entries around one of them, as far as they are still there. */
export async function readConsole(console: Readable, from: number, signal: AbortSignal): Promise<ConsoleEntry[]> {
  const entries: ConsoleEntry[] = [];
  let bytes = 0;
  for await (const entry of console.read({ from, follow: false }, signal)) {
    entries.push(entry);
    bytes += entry.text?.length ?? 0;
    if (entries.length >= mostEntries || bytes > mostTextBytes) break;
  }
  return entries;
}

/** A line that was found. */
export interface Match {
  /** Of the entry in which the line ends. */
  readonly seq: number;
  readonly time: string;
  readonly text: string;
}

/** Lines that hold a text, in capitals or not: the last ones, newest first. No pattern: who asks must not be able to keep us busy. */
export async function searchConsole(
  console: Readable,
  text: string,
  signal: AbortSignal,
): Promise<{ readonly matches: Match[]; readonly more: boolean }> {
  const wanted = text.toLowerCase();
  const matches: Match[] = [];
  let found = 0;
  let rest = "";
  let bytes = 0;
  const look = (line: string, { seq, time }: ConsoleEntry) => {
    if (!line.toLowerCase().includes(wanted)) return;
    found += 1;
    matches.push({ seq, time, text: line.slice(0, longestMatch) });
    if (matches.length > 2 * mostMatches) matches.splice(0, mostMatches);
  };
  for await (const entry of console.read({ from: 0, follow: false }, signal)) {
    const lines = (rest + (entry.text ?? "")).split("\n");
    rest = (lines.pop() ?? "").slice(-mostTextBytes);
    for (const line of lines) look(line, entry);
    bytes += entry.text?.length ?? 0;
    if (bytes < turnBytes) continue;
    bytes = 0;
    await setImmediate();
  }
  return { matches: matches.slice(-mostMatches).reverse(), more: found > mostMatches };
}
