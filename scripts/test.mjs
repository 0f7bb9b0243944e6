// `npm test`: all that runs without a download of hundreds of MB. Says at its end what it left out and why.
// usage: npm test [-- SUITE|FILE ...]     a SUITE is a folder of test/
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

if (!existsSync("node_modules")) {
  const installed = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { stdio: "inherit" });
  if (installed.status !== 0) process.exit(1);
}
const { closingLine, runSuite, sumUp } = await import("./suites.mjs");
const { debianPackages, missingPrograms } = await import("./programs.mjs");

const wanted = process.argv.slice(2);
// Tests start the binaries as users do, so what is tested must be what is in the tree.
if (spawnSync(process.execPath, ["scripts/build.mjs"], { stdio: "inherit" }).status !== 0) process.exit(1);

const results = (wanted.length > 0 ? wanted : ["unit", "faults", "fuzz"]).map((name) => runSuite(name));
if (wanted.length === 0) {
  const missing = missingPrograms();
  if (missing.length > 0) {
    console.log(
      `\nskipped what needs ${missing.join(", ")}; to have them: apt-get install ${debianPackages(missing).join(" ")}`,
    );
  }
  console.log(`
left out, as they need downloads:
  npm test -- conformance   the Python clients, about 1 GB:  node scripts/python-clients.mjs
  npm test -- netboot       a Debian kernel for the board, 30 MB, and QEMU`);
}
const total = sumUp(results);
console.log(closingLine(total));
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
