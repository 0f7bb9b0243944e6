// The test suites, and how one is run: with Node's own runner, from which the counts are taken.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { kernelDirectory } from "./kernel.mjs";
import { missingPrograms } from "./programs.mjs";

const inCi = Boolean(process.env.CI);

/** A virtual machine has one processor. All that runs in it is one file, and an emulated machine is slow. */
const machine = { cores: 1, limitMs: 3_000_000 };

/** Its files do not disturb each other. On two processors it leaves one to a virtual machine, which is busy for longer. */
const small = { cores: Math.max(1, availableParallelism() - 1), together: true };

/**
 * The suites, in the order in which they begin, `npm test` and CI alike. A folder of test/ that has tests and no line here is one all the same,
 * which keeps one processor busy and disturbs nobody.
 *
 * cores: how many processors it keeps busy; suites that together have them run beside each other.
 * together: as many files at once as it has processors, alone as many as there are; other suites drive whole boards or processes and share
 *   ports: their files run one after the other.
 * apart: suites that must not run meanwhile, as both want the same port or device.
 * limitMs: for a file and for a test.
 * onNode24: CI runs it there once more, with these variables. What differs between releases of Node is its API, which the unit tests go through.
 * leftOut: why `npm test` does without it here; CI installs all that is missing.
 */
const described = {
  // The longest first: beside what runs last, nothing is left to run.
  kernel: {
    ...machine,
    // Elsewhere nobody waits for 100 MB that he has not asked for.
    leftOut: () =>
      kernelDirectory() === undefined && "a virtual machine with a Linux kernel of 100 MB: npm test -- kernel",
  },
  image: { ...machine, leftOut: () => "the appliance's image, of 160 MB of packages: npm test -- image" },
  conformance: {
    cores: 1,
    apart: ["netboot"],
    leftOut: () => "1.5 GB of Python clients: node scripts/python-clients.mjs && npm test -- conformance",
  },
  // A third of the time it waits; it also looks at the clock most.
  faults: { cores: 1, apart: ["netboot"] },
  unit: { ...small, onNode24: {} },
  netboot: { cores: 1, leftOut: () => withoutBoard() && "a real U-Boot: it needs QEMU" },
  fuzz: small,
  // These wait most of the time.
  systemd: { cores: 0.5 },
  page: { cores: 0.5 },
  package: { cores: 1, limitMs: 1_800_000, leftOut: () => "fresh Debians that are downloaded: npm test -- package" },
  update: { ...machine, leftOut: () => "virtual machines that start with GRUB: npm test -- update" },
};

const usual = { cores: 1 };

export const suites = {
  ...described,
  ...Object.fromEntries(
    readdirSync("test", { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && !(entry.name in described))
      .filter(({ name }) => testFiles(join("test", name)).length > 0)
      .map(({ name }) => [name, usual]),
  ),
};

/** Suites wait now and then, so a little more may be promised than there is; where all are busy, tests that look at the clock fail. */
export const coresToShare = availableParallelism() + 0.5;

function withoutBoard() {
  return missingPrograms(["qemu-system-aarch64", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"]).length > 0;
}

/**
 * @param {string} name a suite, or a path to a file or folder
 * @param {{ node?: string[], env?: Record<string, string>, beside?: boolean, wrapper?: string[] }} [options] node: the command that is Node;
 *   beside: others run at the same time, so what it says is shown when it has ended; wrapper: a command that runs the runner
 * @returns {Promise<{ passed: number, failed: number, skipped: number, failures: string[], files: { name: string, ms: number }[], tookS: number, cpuS: number }>}
 *   failures: what failed, and why; files: how long each took; cpuS: processor time of all of them
 */
export async function runSuite(name, { node = [process.execPath], env = {}, beside = false, wrapper = [] } = {}) {
  const none = { passed: 0, failed: 0, skipped: 0, failures: [], files: [], tookS: 0, cpuS: 0 };
  const folder = join("test", name);
  const path = existsSync(folder) ? folder : name;
  const files = testFiles(path);
  if (files.length === 0) {
    console.error(`${name}: no such suite`);
    return { ...none, failed: 1 };
  }
  // Of a file, the suite is what its folder says.
  const suite = path.split("/")[1] ?? "";
  const { cores = 1, together = false, limitMs = 600_000 } = suites[suite] ?? {};
  const atOnce = !together ? 1 : beside ? cores : availableParallelism();
  const began = performance.now();
  const scratch = mkdtempSync(join(tmpdir(), "jmp-agent-test-"));
  try {
    const counts = join(scratch, "counts.json");
    const seed = inCi ? ["--import", "./scripts/fixed-seed.mjs"] : [];
    const [command, ...words] = [...wrapper, ...node];
    const said = join(scratch, "output");
    // Into a file: nobody reads pipes for all of them.
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
          ...(suite === "unit" ? {} : { NODE_V8_COVERAGE: "" }),
          ...env,
        },
      },
    );
    const [status] = await once(runner, "exit");
    if (beside) {
      closeSync(output);
      process.stdout.write(readFileSync(said));
    }
    const counted = existsSync(counts) ? JSON.parse(readFileSync(counts, "utf8") || "{}") : {};
    const failed = (counted.fail ?? 0) + (counted.cancelled ?? 0);
    // A runner that dies without counting a failure, or whose wrapper is not content, is a failure of its own.
    const alone = status !== 0 && failed === 0 ? [`${name}: ended with ${status}`] : [];
    return {
      passed: counted.pass ?? 0,
      failed: failed + alone.length,
      skipped: (counted.skipped ?? 0) + (counted.todo ?? 0),
      failures: [...(counted.failures ?? []), ...alone],
      files: counted.files ?? [],
      tookS: (performance.now() - began) / 1_000,
      cpuS: counted.cpuS ?? 0,
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

/** What failed, once more where it is looked for first: at the end. */
export function tellFailures({ failures }) {
  if (failures.length > 0) console.log(["", "== failed tests", ...failures].join("\n"));
}

const slowestFiles = 10;

/**
 * Where the time has gone.
 * @param {{ name: string, tookS: number, cpuS?: number, files?: { name: string, ms: number }[] }[]} results
 */
export function tellTimes(results) {
  console.log("\n== time");
  for (const { name, tookS, cpuS } of results) {
    console.log(`${inSeconds(tookS)}  ${name}${cpuS === undefined ? "" : `, ${Math.round(cpuS)} s of processors`}`);
  }
  const files = results.flatMap(({ name, files = [] }) => files.map((file) => ({ ...file, suite: name })));
  if (files.length === 0) return;
  console.log("\n== slowest files");
  for (const { name, ms, suite } of files.toSorted((a, b) => b.ms - a.ms).slice(0, slowestFiles)) {
    console.log(`${inSeconds(ms / 1_000)}  ${name}${name.startsWith(`test/${suite}/`) ? "" : ` (${suite})`}`);
  }
}

const inSeconds = (seconds) => `${Math.round(seconds)} s`.padStart(7);

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
