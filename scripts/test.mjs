// `npm test`: all that runs without a download of hundreds of MB. Says at its end what it left out and why.
// usage: npm test [-- SUITE|FILE ...]     a SUITE is a folder of test/
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

if (!existsSync("node_modules")) {
  const installed = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { stdio: "inherit" });
  if (installed.status !== 0) process.exit(1);
}
const { closingLine, runSuite, sumUp, tellFailures } = await import("./suites.mjs");
const { kernelDirectory } = await import("./kernel.mjs");
const { debianPackages, missingPrograms } = await import("./programs.mjs");

const wanted = process.argv.slice(2);
// Tests start the binaries as users do, so what is tested must be what is in the tree.
if (spawnSync(process.execPath, ["scripts/build.mjs"], { stdio: "inherit" }).status !== 0) process.exit(1);

const missing = missingPrograms();
const suites = ["unit", "fuzz", "docs"];
const board = ["qemu-system-aarch64", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"];
const withoutBoard = board.some((program) => missing.includes(program));
if (!withoutBoard) suites.push("netboot");
// The one that looks at the clock most comes when the virtual machine beside it has done most of its work.
suites.push("faults");
// CI makes the kernel itself; elsewhere nobody waits for 100 MB that he has not asked for.
const withoutKernel = kernelDirectory() === undefined && !process.env.CI;

const results = [];
let machine;
for (const name of wanted.length > 0 ? wanted : suites) {
  // The virtual machine has one core, and the unit tests take both.
  if (name === "fuzz" && wanted.length === 0 && !withoutKernel) machine = runSuite("kernel", { beside: true });
  results.push(await runSuite(name));
}
if (machine !== undefined) results.push(await machine);
const total = sumUp(results);
if (wanted.length === 0) {
  console.log("\nleft out:");
  console.log("- conformance, 1.5 GB of Python clients: node scripts/python-clients.mjs && npm test -- conformance");
  if (withoutKernel) console.log("- kernel, a virtual machine with a Linux kernel of 100 MB: npm test -- kernel");
  if (withoutBoard) console.log("- netboot, a real U-Boot: it needs QEMU");
  if (missing.length > 0) {
    console.log(`- what needs ${missing.join(", ")}: apt-get install ${debianPackages(missing).join(" ")}`);
  }
}
tellFailures(total);
console.log(closingLine(total));
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
