// Boots one virtual machine and runs the files of guest/ in it, each as a process of its own.
// KERNEL_ONLY=gpio,can runs these files only.
import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { installKernel } from "../../scripts/kernel.mjs";
import { missingPrograms } from "../../scripts/programs.mjs";
import { boot, sharedFolder, type Machine } from "./machine.ts";
import type { GuestTest } from "./messages.ts";

const fileLimitMs = 600_000;

const only = process.env["KERNEL_ONLY"]?.split(",");
const files = readdirSync("test/kernel/guest", { withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
  .map((entry) => basename(entry.name, ".ts"))
  .filter((name) => only?.includes(name) ?? true);

const skip = whyNot();
let machine: Machine | undefined;
let removeFolder = () => {};

before(async () => {
  if (skip !== false) return;
  const folder = sharedFolder();
  removeFolder = folder.remove;
  await bundle(folder.path);
  machine = await boot(installKernel(), folder.path);
  console.log(`the virtual machine (${machine.accelerator}) was up after ${machine.startS.toFixed(1)} s`);
});

after(async () => {
  await machine?.stop();
  removeFolder();
});

for (const file of files) {
  test(file, { skip, timeout: fileLimitMs + 60_000 }, async (t) => {
    assert.ok(machine);
    const replays: Promise<void>[] = [];
    let failed = false;
    const replay = ({ name, ms, error, skip }: GuestTest) => {
      failed ||= error !== undefined;
      replays.push(
        t.test(name, { skip: skip ?? false }, (t) => {
          t.diagnostic(`${(ms / 1000).toFixed(1)} s in the guest`);
          // With the guest's own stack alone.
          if (error !== undefined) throw Object.assign(new Error(error), { stack: error });
        }),
      );
    };
    const { code, signal, output } = await machine.run(`${file}.js`, fileLimitMs, (message) => {
      if (message.type === "test") replay(message.test);
    });
    await Promise.all(replays);
    if (code !== 0) console.log(`${file}, in the guest:\n${output}`);
    assert.ok(code === 0 || (code === 1 && failed), `it ended with ${signal ?? code}`);
    assert.ok(replays.length > 0, "it has no tests");
  });
}

/** Every file with what it imports, so that the slow guest reads few files; native parts stay what their packages ship. */
async function bundle(folder: string): Promise<void> {
  const inputs = [...files.map((name) => `guest/${name}`), "guest-main", "reporter"];
  await build({
    entryPoints: inputs.map((path) => ({ in: `test/kernel/${path}.ts`, out: basename(path) })),
    outdir: folder,
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    sourcemap: true,
    sourceRoot: `${folder}/`,
    // As scripts/build.mjs has it.
    external: ["koffi", "opendal", "cpu-features", "*.node"],
    banner: {
      js: "import { createRequire as createRequire_ } from 'node:module'; const require = createRequire_(import.meta.url);",
    },
  });
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
}

/** Why it cannot run here. Never a reason in CI. */
function whyNot(): string | false {
  const missing = missingPrograms(["qemu-system-x86_64", "modprobe", "ip"]);
  const reason =
    process.arch !== "x64" || process.platform !== "linux"
      ? "the virtual machine needs Linux on x86-64"
      : missing.length > 0
        ? `the virtual machine needs ${missing.join(", ")}`
        : process.getuid?.() !== 0
          ? "root in the guest has the rights of the user that runs QEMU, and this is not root"
          : false;
  if (reason !== false && process.env["CI"]) throw new Error(reason);
  return reason;
}
