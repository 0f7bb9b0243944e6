import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { items } from "./log.ts";
import { parseSince } from "./log-item.ts";
import { nameOfFolder } from "./place.ts";
import type { Entry } from "./protocol.ts";
import { listRecord, RecordReader } from "./reader.ts";
import { entriesSince, lastEntries } from "./select.ts";
import type { LogSource } from "./show.ts";

/** How often the files are looked at for more. */
const lookEveryMs = 200;

/** The record of one console, on disk. */
export interface PastRecord {
  readonly exporter: string;
  readonly driver: string;
  readonly folder: string;
  readonly bytes: number;
}

/** All records below a directory; none where it is not there. @throws the system's error, as for what others own */
export async function listRecords(directory: string): Promise<PastRecord[]> {
  const records: PastRecord[] = [];
  for (const exporter of await foldersIn(directory)) {
    for (const driver of await foldersIn(join(directory, exporter))) {
      const folder = join(directory, exporter, driver);
      const files = await listRecord(folder);
      if (files.length === 0) continue;
      const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
      records.push({ exporter: nameOfFolder(exporter), driver: nameOfFolder(driver), folder, bytes });
    }
  }
  return records;
}

/** A record on disk as what is printed. @param since as of `log` */
export function recordOnDisk(folder: string, since: string | undefined, signal: AbortSignal): LogSource {
  const wanted = (from: number, follow: boolean): AsyncIterable<Entry> => {
    const all = entries(folder, from, signal, { follow });
    return since === undefined ? all : entriesSince(all, parseSince(since, Date.now()));
  };
  return {
    async *history(lines) {
      const history = wanted(0, false);
      yield* items(lines === undefined ? history : await lastEntries(history, lines));
    },
    live: (after) => items(wanted(after + 1, true)),
  };
}

async function* entries(
  folder: string,
  from: number,
  signal: AbortSignal,
  { follow }: { follow: boolean },
): AsyncGenerator<Entry> {
  const reader = new RecordReader(folder, from);
  try {
    while (!signal.aborted) {
      const some = await reader.read();
      yield* some;
      if (some.length > 0) continue;
      if (!follow) return;
      await sleep(lookEveryMs, undefined, { signal }).catch(() => {});
    }
  } finally {
    await reader.close();
  }
}

async function foldersIn(directory: string): Promise<string[]> {
  const found = await readdir(directory, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  return found.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}
