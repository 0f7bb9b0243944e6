import type { Entry } from "./protocol.ts";

const LF = 0x0a;
/** What the last lines may take of memory while their beginning is looked for. */
const mostKeptBytes = 8 * 1024 * 1024;

/** Entries since a moment: clocks are set, so that the first one that is late enough begins it, and all that follow belong to it. */
export async function* entriesSince(entries: AsyncIterable<Entry>, wallUs: number): AsyncGenerator<Entry> {
  let begun = false;
  for await (const entry of entries) {
    begun ||= entry.wallUs >= wallUs;
    if (begun) yield entry;
  }
}

/** The last entries, with at least so many lines, marks counted as lines; at most 8 MiB. */
export async function lastEntries(entries: AsyncIterable<Entry>, lines: number): Promise<Entry[]> {
  const kept: { entry: Entry; lines: number }[] = [];
  let [begin, count, bytes] = [0, 0, 0];
  for await (const entry of entries) {
    const own = entry.kind === "m" ? 1 : countLines(entry.payload);
    kept.push({ entry, lines: own });
    count += own;
    bytes += entry.payload.length;
    for (let first = kept[begin]; first !== undefined; first = kept[begin]) {
      if (count - first.lines < lines && bytes <= mostKeptBytes) break;
      count -= first.lines;
      bytes -= first.entry.payload.length;
      begin += 1;
    }
    if (begin > 4096) {
      kept.splice(0, begin);
      begin = 0;
    }
  }
  return kept.slice(begin).map(({ entry }) => entry);
}

function countLines(payload: Uint8Array): number {
  let count = 0;
  for (let at = payload.indexOf(LF); at !== -1; at = payload.indexOf(LF, at + 1)) count += 1;
  return count;
}
