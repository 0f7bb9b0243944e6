// Runs test suites with Node's own runner and closes with the line `N passed, N failed, N skipped`.
// usage: node scripts/test.mjs [SUITE|FILE ...]     a SUITE is a folder of test/; see `suites` for the default
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Suites that need no large download, in the order they run. */
const suites = ["unit", "faults", "fuzz"];

const wanted = process.argv.slice(2).length > 0 ? process.argv.slice(2) : suites;
const scratch = mkdtempSync(join(tmpdir(), "jmp-agent-test-"));
const total = { passed: 0, failed: 0, skipped: 0 };
try {
  for (const name of wanted) run(name);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;

function run(name) {
  const files = existsSync(name) ? testFiles(name) : testFiles(join("test", name));
  if (files.length === 0) return;
  const counts = join(scratch, "counts.json");
  // Suites that drive whole boards share ports and cores: their files run one after the other.
  const serial = /conformance|netboot|bench/.test(name) ? ["--test-concurrency=1"] : [];
  const runner = spawnSync(
    process.execPath,
    ["--import", "tsx", "--test", ...serial]
      .concat(["--test-reporter=spec", "--test-reporter-destination=stdout"])
      .concat(["--test-reporter=./scripts/counts.mjs", `--test-reporter-destination=${counts}`])
      .concat(files),
    { stdio: "inherit" },
  );
  const counted = existsSync(counts) ? JSON.parse(readFileSync(counts, "utf8") || "{}") : {};
  total.passed += counted.pass ?? 0;
  total.skipped += (counted.skipped ?? 0) + (counted.todo ?? 0);
  const failed = (counted.fail ?? 0) + (counted.cancelled ?? 0);
  // A runner that dies without counts is a failure of its own.
  total.failed += runner.status !== 0 && failed === 0 ? 1 : failed;
}

function testFiles(path) {
  if (!existsSync(path)) return [];
  if (statSync(path).isFile()) return [path];
  return readdirSync(path, { recursive: true })
    .filter((file) => file.endsWith(".test.ts"))
    .sort()
    .map((file) => join(path, file));
}
