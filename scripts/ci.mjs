// All that a submission must pass, on a clean clone. Called by .ci/run; ends with the counts of all runners.
import { spawnSync } from "node:child_process";
import { installClients } from "./python-clients.mjs";
import { installKernel } from "./kernel.mjs";
import { installPrograms } from "./programs.mjs";
import { closingLine, runSuite, sumUp, tellFailures, toldFailures } from "./suites.mjs";

const failures = [];
const began = performance.now();

function step(name, command, ...words) {
  heading(name);
  const { status } = spawnSync(command, words, { stdio: "inherit" });
  if (status !== 0) failures.push(name);
}

function heading(name) {
  console.log(`\n== ${name} (${Math.round((performance.now() - began) / 1000)} s)`);
}

heading("programs");
if (!installPrograms()) failures.push("programs");
installClients();
installKernel();
step("generated code is current", "npm", "run", "proto");
step("generated code is committed", "git", "diff", "--exit-code", "--stat", "proto/gen", "test/sim/proto/gen");
step("types", "npm", "run", "types");
step("lint and format", "npm", "run", "lint");
step("doors between the rooms", "npm", "run", "layers");
step("nothing unused", "npm", "run", "unused");

const results = [];
step("build", "npm", "run", "build");
// The README's test command, with coverage.
heading("npm test, with coverage of the unit tests");
const coverage = [
  "c8",
  "--clean",
  "--all",
  "--exclude-after-remap",
  "--reporter=text-summary",
  "--reporter=json-summary",
]
  .concat(["agent", "net", "bundles"].flatMap((room) => ["--include", `${room}/**/*.ts`]))
  .concat(["--check-coverage", "--lines=90", "--branches=0", "--functions=0", "--statements=0"]);
const tested = spawnSync("npx", [...coverage, "npm", "test"], { encoding: "utf8", maxBuffer: 1 << 28 });
console.log(tested.stdout + tested.stderr);
const counted = [...tested.stdout.matchAll(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm)].at(-1);
results.push({
  passed: Number(counted?.[1] ?? 0),
  failed: Number(counted?.[2] ?? 1),
  skipped: Number(counted?.[3] ?? 0),
  failures: toldFailures(tested.stdout),
});
if (tested.status !== 0) failures.push("npm test with 90 % of the lines covered");

// What differs between releases of Node is its API, which fuzzed decoders do not use.
heading("conformance; beside it, on Node 24, unit and then faults");
const onNode24 = { node: ["npx", "--yes", "-p", "node@24", "node"], beside: true };
const both = async () => [await runSuite("unit", onNode24), await runSuite("faults", onNode24)];
const [conformance, node24] = await Promise.all([runSuite("conformance"), both()]);
results.push(conformance, ...node24);
step("the demo", "npm", "run", "demo");
step("bench, the quick form", "npm", "run", "bench", "--", "--quick");

const total = sumUp(results);
total.failed += failures.length;
if (total.skipped > 0) failures.push(`${total.skipped} tests were skipped, and CI can run them all`);
tellFailures(total);
for (const failure of failures) console.log(`failed: ${failure}`);
console.log(closingLine(total));
process.exitCode = total.failed > 0 || failures.length > 0 ? 1 : 0;
