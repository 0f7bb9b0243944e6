// Runs test suites with Node's own runner and takes the counts from it.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";

/**
 * @param {string} name a folder of test/, or a path to a file or folder
 * @param {{ node?: string[], env?: Record<string, string>, beside?: boolean }} [options] node: the command that is Node;
 *   beside: others run at the same time, so what it says is shown when it has ended
 * @returns {Promise<{ passed: number, failed: number, skipped: number, failures: string[] }>} failures: what failed, and why
 */
export async function runSuite(name, { node = [process.execPath], env = {}, beside = false } = {}) {
  const none = { passed: 0, failed: 0, skipped: 0, failures: [] };
  const suite = join("test", name);
  const files = testFiles(existsSync(suite) ? suite : name);
  if (files.length === 0) {
    console.error(`${name}: no such suite`);
    return { ...none, failed: 1 };
  }
  const scratch = mkdtempSync(join(tmpdir(), "jmp-agent-test-"));
  try {
    const counts = join(scratch, "counts.json");
    // Suites that drive whole boards or processes share ports and cores: their files run one after the other.
    const atOnce = /unit|fuzz/.test(name) ? Math.max(2, availableParallelism() - 1) : 1;
    const seed = process.env.CI ? ["--import", "./scripts/fixed-seed.mjs"] : [];
    // For a file and for a test: all that runs in the virtual machine is one file, and an emulated machine is slow.
    const limitMs = /kernel/.test(name) ? 1_800_000 : 600_000;
    const [command, ...words] = node;
    const said = join(scratch, "output");
    // Into a file: whoever waits for another suite reads no pipes meanwhile.
    const output = beside ? openSync(said, "w") : "inherit";
    const runner = spawn(
      command,
      [...words, "--import", "tsx", ...seed, "--test", `--test-timeout=${limitMs}`, `--test-concurrency=${atOnce}`]
        .concat(["--test-reporter=spec", "--test-reporter-destination=stdout"])
        .concat(["--test-reporter=./scripts/counts.mjs", `--test-reporter-destination=${counts}`])
        .concat(files),
      {
        stdio: [beside ? "ignore" : "inherit", output, output],
        env: {
          ...process.env,
          // What agents keep of flashes and consoles, which would be this machine's.
          STATE_DIRECTORY: join(scratch, "state"),
          // Coverage is that of the unit tests: the hundreds of processes of the others each pay for it, and add nothing.
          ...(/unit/.test(name) ? {} : { NODE_V8_COVERAGE: "" }),
          ...env,
        },
      },
    );
    const [status] = await once(runner, "exit");
    if (beside) {
      closeSync(output);
      process.stdout.write(`\n== ${name}, which ran beside the others\n${readFileSync(said, "utf8")}`);
    }
    const counted = existsSync(counts) ? JSON.parse(readFileSync(counts, "utf8") || "{}") : {};
    const failed = (counted.fail ?? 0) + (counted.cancelled ?? 0);
    return {
      passed: counted.pass ?? 0,
      // A runner that dies without counting a failure is a failure of its own.
      failed: status !== 0 && failed === 0 ? 1 : failed,
      skipped: (counted.skipped ?? 0) + (counted.todo ?? 0),
      failures: counted.failures ?? [],
    };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Adds up what suites counted. */
export function sumUp(results) {
  const sum = (key) => results.reduce((total, result) => total + result[key], 0);
  const failures = results.flatMap((result) => result.failures);
  return { passed: sum("passed"), failed: sum("failed"), skipped: sum("skipped"), failures };
}

const failuresHead = "== failed tests";

/** What failed, once more where it is looked for first: at the end. */
export function tellFailures({ failures }) {
  if (failures.length > 0) console.log(["", failuresHead, ...failures].join("\n"));
}

/** What a run of `npm test` has told in that way. */
export function toldFailures(output) {
  const at = output.lastIndexOf(`\n${failuresHead}\n`);
  if (at < 0) return [];
  const told = output.slice(at + failuresHead.length + 2);
  return [told.slice(0, told.search(/^\d+ passed, \d+ failed/m)).trimEnd()];
}

/** The closing line, in the form that tools read. */
export function closingLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

function testFiles(path) {
  if (!existsSync(path)) return [];
  if (statSync(path).isFile()) return [path];
  return readdirSync(path, { recursive: true })
    .filter((file) => file.endsWith(".test.ts"))
    .sort()
    .map((file) => join(path, file));
}
