import type { LogItem, LogRequest } from "./log-item.ts";
import { parseSince, toLogItem } from "./log-item.ts";
import type { Entry } from "./protocol.ts";
import type { ConsoleRecord } from "./record.ts";
import { entriesSince, lastEntries } from "./select.ts";

/** Answers a question for a record. @param earliest number of the first entry that may be told */
export async function* logOf(
  record: ConsoleRecord,
  earliest: number,
  { from, since, lines, follow = false }: LogRequest,
  signal: AbortSignal,
): AsyncGenerator<LogItem> {
  const begin = Math.max(earliest, from ?? 0);
  const end = record.next ?? 0;
  let history: AsyncIterable<Entry> = until(record.read(begin, { follow: false, signal }), end);
  if (since !== undefined) history = entriesSince(history, parseSince(since, Date.now()));
  yield* items(lines === undefined ? history : await lastEntries(history, lines));
  if (follow) yield* items(record.read(Math.max(begin, end), { follow, signal }));
}

async function* until(entries: AsyncIterable<Entry>, end: number): AsyncGenerator<Entry> {
  for await (const entry of entries) {
    if (entry.seq >= end) return;
    yield entry;
  }
}

/** Entries as they are told; what is not understood is left out. */
export async function* items(entries: AsyncIterable<Entry> | Iterable<Entry>): AsyncGenerator<LogItem> {
  for await (const entry of entries) {
    const item = toLogItem(entry);
    if (item !== undefined) yield item;
  }
}
