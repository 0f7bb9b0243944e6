// Writes a file to a disk, as an agent does: node --import tsx our-writer.ts FILE DISK OPTIONS, the options as JSON.
// Prints its report as JSON, with the seconds that it took in all and the largest RSS in bytes.
import { readFileSync } from "node:fs";
import { LogBus } from "../../../agent/driver/log.ts";
import { FileStream } from "../../../agent/stream/byte-source.ts";
import { writtenBlocksIn } from "../../../boards/storage/block/remembered.ts";
import { writeImage } from "../../../boards/storage/block/write.ts";
import { parseBmap } from "../../../boards/storage/image/bmap.ts";

export interface WriterOptions {
  readonly verify: boolean;
  readonly bmap?: string | undefined;
  /** Directory of what is remembered. */
  readonly remembered?: string | undefined;
}

const [file = "", disk = "", words = "{}"] = process.argv.slice(2);
const { verify, bmap, remembered } = JSON.parse(words) as WriterOptions;
const log = new LogBus("DEBUG").logger({ source: "driver", logger: "bench" });
const startMs = performance.now();
const report = await writeImage(
  await FileStream.open(file),
  { locate: () => disk, absent: "no disk" },
  {
    timeoutMs: 1_000,
    verify,
    leewayMs: 0,
    fsyncTimeoutMs: 60_000,
    bmap: bmap === undefined ? undefined : parseBmap(readFileSync(bmap)),
    remembered: remembered === undefined ? undefined : writtenBlocksIn(remembered, log),
  },
  { signal: new AbortController().signal, log },
);
const total = (performance.now() - startMs) / 1_000;
console.log(JSON.stringify({ ...report, total, rssBytes: process.resourceUsage().maxRSS * 1024 }));
