// Measures the agent and the Python exporter side by side: alternating rounds, medians, ratios.
// usage: npm run bench [-- --quick] [--rounds N] [MEASURE ...]     prints a Markdown table
// The measures `http`, `netboot`, `tftp`, `serial` and `storage` are of their own:
//   npm run bench -- http                                       (beside nginx)
//   npm run bench -- serial                                     (8 consoles at 3 Mbaud, recorded)
//   npm run bench -- storage [--on eMMC,SSD,memory,file] (beside dd and bmaptool, on loop devices; as root)
//   npm run bench -- netboot                                    (whole flashes of a QEMU board; as root, never with the others)
//   npm run bench -- tftp [--on loopback,veth,loss,u-boot] [--blksize N,...] [--windowsize N,...] [--clients N,...]
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { sides, type Side } from "./exporters.ts";
import { httpBench } from "./http/bench.ts";
import { calls, flash, fullSize, quickSize, sidecar, start, streams, type Measure } from "./measures.ts";
import { netbootBench } from "./netboot/bench.ts";
import { rack } from "./rack.ts";
import { serialBench } from "./serial/bench.ts";
import { figure, median } from "./statistics.ts";
import { storageBench } from "./storage/bench.ts";
import { fullTftpBench, quickTftpBench, tftpBench, tftpPlaces } from "./tftp/bench.ts";

const measures: Record<string, Measure> = { start, calls, streams, flash, rack, sidecar };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: "boolean", default: false },
    rounds: { type: "string" },
    on: { type: "string" },
    blksize: { type: "string" },
    windowsize: { type: "string" },
    clients: { type: "string" },
  },
});
// Both exporters and the clients keep images in temporary files: in memory, so that no disk is measured.
if (existsSync("/dev/shm")) process.env["TMPDIR"] ??= "/dev/shm";

const size = values.quick ? quickSize : fullSize;
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));

const isWanted = (measure: string) => positionals.length === 0 || positionals.includes(measure);
const chosen = Object.entries(measures).filter(([name]) => isWanted(name));
if (chosen.length > 0) console.log("| what | agent | Python exporter | agent : Python |\n| --- | ---: | ---: | ---: |");
for (const [, measure] of chosen) {
  const samples: Record<Side, Map<string, number[]>> = { agent: new Map(), python: new Map() };
  for (let round = 0; round < rounds; round += 1) {
    // Alternating, and each side first in turn, so that a drift of the machine hits both.
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
      for (const sample of await measure(side, size)) {
        samples[side].set(sample.name, [...(samples[side].get(sample.name) ?? []), sample.value]);
      }
    }
  }
  for (const [what, values] of samples.agent) {
    const [ours, theirs] = [median(values), median(samples.python.get(what) ?? [])];
    console.log(`| ${what} | ${figure(ours)} | ${figure(theirs)} | ${figure(ours / theirs)} |`);
  }
}

if (isWanted("http")) await httpBench({ rounds, fileMiB: values.quick ? 64 : 256 });

if (positionals.includes("netboot")) await netbootBench({ rounds, sizeMiB: values.quick ? 64 : 256 });

if (isWanted("serial")) await serialBench({ seconds: values.quick ? 5 : 60 });

if (isWanted("storage")) {
  await storageBench({ rounds, sizeMiB: values.quick ? 96 : 1024, on: values.on?.split(",") });
}

if (isWanted("tftp")) {
  const all = values.quick ? quickTftpBench : fullTftpBench;
  const numbers = (words: string | undefined) => words?.split(",").map(Number);
  const on = values.on?.split(",");
  await tftpBench({
    ...all,
    rounds: Number(values.rounds ?? all.rounds),
    on: on === undefined ? all.on : tftpPlaces.filter((place) => on.includes(place)),
    blksize: numbers(values.blksize) ?? all.blksize,
    windowsize: numbers(values.windowsize) ?? all.windowsize,
    clients: numbers(values.clients) ?? all.clients,
  });
}
