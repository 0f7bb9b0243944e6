// `npm test`: all that runs without a download of hundreds of MB. Says at its end what it left out and why.
// usage: npm test [-- SUITE|FILE ...]     a SUITE is a folder of test/
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

if (!existsSync("node_modules")) {
  const installed = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { stdio: "inherit" });
  if (installed.status !== 0) process.exit(1);
}
const { closingLine, coresToShare, runSuite, suites, sumUp, tellFailures, tellTimes } = await import("./suites.mjs");
const { runJobs } = await import("./schedule.mjs");
const { debianPackages, missingPrograms } = await import("./programs.mjs");

const wanted = process.argv.slice(2);
// Tests start the binaries as users do, so what is tested must be what is in the tree.
if (spawnSync(process.execPath, ["scripts/build.mjs"], { stdio: "inherit" }).status !== 0) process.exit(1);

const results = [];
if (wanted.length > 0) {
  for (const name of wanted) results.push({ name, ...(await runSuite(name)) });
} else {
  const chosen = Object.entries(suites).filter(([, { leftOut }]) => !leftOut?.());
  const jobs = chosen.map(([name, { cores, apart = [] }]) => ({
    ...{ name, cores, apart },
    async run() {
      console.log(`\n== ${name} has begun; what it says comes when it has ended`);
      const result = await runSuite(name, { beside: true });
      results.push({ name, ...result });
      console.log(`\n== ${name}: ${closingLine(result)}`);
    },
  }));
  await runJobs(jobs, coresToShare);
}
const total = sumUp(results);
if (wanted.length === 0) {
  console.log("\nleft out:");
  for (const [name, { leftOut }] of Object.entries(suites)) {
    const reason = leftOut?.();
    if (reason) console.log(`- ${name}, ${reason}`);
  }
  const missing = missingPrograms();
  if (missing.length > 0) {
    console.log(`- what needs ${missing.join(", ")}: apt-get install ${debianPackages(missing).join(" ")}`);
  }
}
tellTimes(results);
tellFailures(total);
console.log(closingLine(total));
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
