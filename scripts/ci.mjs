// All that a submission must pass, on a clean clone. Called by .ci/run; ends with the counts of all runners.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clientVersions } from "./python-clients.mjs";
import { installPrograms } from "./programs.mjs";
import { runJobs } from "./schedule.mjs";
import { closingLine, coresToShare, runSuite, suites, sumUp, tellFailures, tellTimes } from "./suites.mjs";

const failures = [];
const results = [];
const times = [];
const began = performance.now();
const scratch = mkdtempSync(join(tmpdir(), "jmp-agent-ci-"));

function heading(text) {
  console.log(`\n== ${text} (${Math.round((performance.now() - began) / 1000)} s)`);
}

/** A job that is one command, and must end with 0. What it says comes when it has ended. */
function step(name, command, more = {}) {
  return {
    ...{ name, cores: 1, ...more },
    async run() {
      heading(`${name} has begun`);
      const startMs = performance.now();
      const said = join(scratch, "output-" + name.replaceAll(/\W/g, "-"));
      const output = openSync(said, "w");
      const [program, ...words] = command;
      const child = spawn(program, words, { stdio: ["ignore", output, output] });
      const [status] = await once(child, "exit");
      closeSync(output);
      process.stdout.write(readFileSync(said));
      heading(`${name} has ended${status === 0 ? "" : `, with ${status}`}`);
      if (status !== 0) failures.push(name);
      times.push({ name, tookS: (performance.now() - startMs) / 1_000 });
    },
  };
}

/** A job that is a suite. */
function suite(name, options = {}) {
  const { cores, apart = [] } = suites[name];
  const title = options.node === undefined ? name : `${name} on Node 24`;
  return {
    ...{ name: title, kind: name, cores, apart, after: installed },
    async run() {
      heading(`${title} has begun`);
      const result = await runSuite(name, { beside: true, ...options });
      heading(`${title} has ended: ${closingLine(result)}`);
      results.push(result);
      times.push({ name: title, ...result });
    },
  };
}

const inNode = (...words) => [process.execPath, ...words];
const run = (script, ...words) => ["npm", "run", script, ...(words.length > 0 ? ["--", ...words] : [])];

const node24 = ["npx", "--yes", "-p", "node@24", "node"];

heading("programs");
if (!installPrograms()) failures.push("programs");
times.push({ name: "programs", tookS: (performance.now() - began) / 1_000 });

// What is waited for is the network as much as a processor, and nobody wants the processors before it is done.
const installing = [
  ...clientVersions.map((version) => step(`Python client ${version}`, inNode("scripts/python-clients.mjs", version))),
  step("the kernel of the virtual machine", inNode("scripts/kernel.mjs")),
  // Two at once would both install it.
  step("Node 24", [...node24, "--version"]),
].map((job) => ({ ...job, cores: 0.5 }));
const generated = ["generated code is current"];
// Its folders come and go.
const built = [...generated, "build"];
const checking = [
  step("generated code is current", run("proto")),
  step("build", run("build"), { after: generated }),
  step("generated code is committed", ["git", "diff", "--exit-code", "--stat", "proto/gen", "test/sim/proto/gen"], {
    after: generated,
  }),
  step("types", run("types"), { after: built }),
  step("lint and format", run("lint"), { after: built }),
  step("doors between the rooms", run("layers"), { after: built }),
  step("nothing unused", run("unused"), { after: built }),
];
const installed = [...installing.map(({ name }) => name), ...built];

const coverage = [
  ...["npx", "c8", "--clean", "--all", "--exclude-after-remap", "--reporter=text-summary", "--reporter=json-summary"],
  ...["agent", "net", "bundles"].flatMap((room) => ["--include", `${room}/**/*.ts`]),
  ...["--check-coverage", "--lines=90", "--branches=0", "--functions=0", "--statements=0"],
];
const tests = Object.entries(suites).flatMap(([name, { onNode24 }]) => [
  suite(name, name === "unit" ? { wrapper: coverage } : {}),
  ...(onNode24 === undefined ? [] : [suite(name, { node: node24, env: onNode24 })]),
]);
// Both boot boards. The benchmark only shows that it still runs: its figures are worth nothing here.
const shows = [
  step("the demo", run("demo"), { after: installed, apart: ["netboot"] }),
  step("bench, the quick form", run("bench", "--quick"), {
    after: installed,
    apart: ["the demo", "netboot", "faults"],
  }),
];

await runJobs([...installing, ...checking, ...tests, ...shows], coresToShare);
rmSync(scratch, { recursive: true, force: true });

const total = sumUp(results);
total.failed += failures.length;
if (total.skipped > 0) failures.push(`${total.skipped} tests were skipped, and CI can run them all`);
tellTimes(times);
tellFailures(total);
for (const failure of failures) console.log(`failed: ${failure}`);
console.log(closingLine(total));
process.exitCode = total.failed > 0 || failures.length > 0 ? 1 : 0;
