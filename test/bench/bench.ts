// Measures the agent and the Python exporter side by side: alternating rounds, medians, ratios.
// usage: npm run bench [-- --quick] [--rounds N] [MEASURE ...]     prints a Markdown table
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { sides, type Side } from "./exporters.ts";
import { calls, flash, fullSize, quickSize, start, streams, tftp, type Measure } from "./measures.ts";
import { rack } from "./rack.ts";

const measures: Record<string, Measure> = { start, calls, streams, flash, tftp, rack };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { quick: { type: "boolean", default: false }, rounds: { type: "string" } },
});
// Both exporters and the clients keep images in temporary files: in memory, so that no disk is measured.
if (existsSync("/dev/shm")) process.env["TMPDIR"] ??= "/dev/shm";

const size = values.quick ? quickSize : fullSize;
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));

console.log("| what | agent | Python exporter | agent : Python |\n| --- | ---: | ---: | ---: |");
for (const [name, measure] of Object.entries(measures)) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
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

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

function figure(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
