import assert from "node:assert/strict";
import { createHash, randomFillSync } from "node:crypto";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Receipt } from "../../bundles/flash/receipt.ts";
import { makeBundle, missingForNetboot, startLab, type AgentRun, type Lab } from "../sim/netboot-lab.ts";

const skip = missingForNetboot();
const mebi = 2 ** 20;
const shared = mkdtempSync(join(tmpdir(), "netboot-"));
let bundle = "";
before(() => {
  if (skip === false) ({ bundle } = makeBundle(shared));
});
after(() => rmSync(shared, { recursive: true, force: true }));

function randomImage(directory: string, bytes: number): string {
  const path = join(directory, "image.raw");
  writeFileSync(path, randomFillSync(Buffer.allocUnsafe(bytes)));
  return path;
}

function flash(lab: Lab, image: string, ...options: string[]): AgentRun {
  const files = ["--receipt", join(lab.directory, "receipt.json"), "--console-log", join(lab.directory, "console.log")];
  return lab.agent("flash", image, "--exporter-config", lab.config, "--off-time", "0", ...files, ...options);
}

function receiptOf(lab: Lab): Receipt {
  return JSON.parse(readFileSync(join(lab.directory, "receipt.json"), "utf8")) as Receipt;
}

/** Waits for success and compares the board's disk with the image, from outside. */
async function assertFlashed(run: AgentRun, lab: Lab, content: Buffer): Promise<Receipt> {
  assert.equal(await run.ended(), 0, run.stderr());
  const disk = await open(lab.disk, "r");
  const held = (await disk.read(Buffer.alloc(content.length), 0, content.length, 0)).buffer;
  await disk.close();
  assert.ok(held.equals(content), "the disk holds the image");
  const receipt = receiptOf(lab);
  assert.equal(receipt.verdict, "verified");
  const sha256 = createHash("sha256").update(content).digest("hex");
  assert.deepEqual(receipt.image.content, { bytes: content.length, sha256 });
  assert.equal(receipt.readBackSha256, sha256);
  return receipt;
}

/** Waits for a failure that names this step, in what is printed and in the receipt. */
async function assertFailed(run: AgentRun, lab: Lab, step: string, reason: RegExp): Promise<void> {
  assert.equal(await run.ended(), 1, run.stderr());
  const { verdict, failure } = receiptOf(lab);
  assert.equal(verdict, "failed");
  assert.equal(failure?.step, step);
  assert.match(failure.message, reason);
  assert.match(run.stderr(), new RegExp(`jmp-agent flash: ${step}: `));
  assert.match(run.stderr(), /the console log is in .*console\.log/);
  assert.match(readFileSync(join(lab.directory, "console.log"), "utf8"), /U-Boot/);
}

test("jmp-agent flash puts a 64 MiB image on the board's disk in less than a minute", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const image = randomImage(lab.directory, 64 * mebi);
  const receipt = await assertFlashed(flash(lab, image), lab, readFileSync(image));
  t.diagnostic(receipt.steps.map(({ name, durationMs }) => `${name} ${durationMs} ms`).join(", "));
  assert.ok(receipt.durationMs < 60_000, `took ${receipt.durationMs} ms`);
  assert.equal(receipt.target, "/dev/vda");
  assert.deepEqual(
    receipt.bundle?.files.map(({ name }) => name),
    ["Image", "initramfs.gz", "virt.dtb"],
  );
  assert.match(receipt.versions["uboot"] ?? "", /^U-Boot 20/);
});

const encoders = { gz: "gzip", xz: "xz", bz2: "bzip2", zst: "zstd" };
for (const [suffix, program] of Object.entries(encoders)) {
  test(`an image that is .${suffix} and no whole number of sectors long`, { skip }, async (t) => {
    const lab = await startLab(t, bundle, { kind: "user" });
    const image = randomImage(lab.directory, 3 * mebi + 17);
    const content = readFileSync(image);
    execFileSync(program, ["-q", "-k", image]);
    const { bytes } = (await assertFlashed(flash(lab, `${image}.${suffix}`), lab, content)).image;
    assert.notEqual(bytes, content.length);
  });
}

test("a fixed address, and 1 % of the packets lost", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "tap", lossPercent: 1 });
  const image = randomImage(lab.directory, 64 * mebi);
  const address = ["--ip", "10.77.0.2/24", "--gateway", "10.77.0.1"];
  const receipt = await assertFlashed(flash(lab, image, ...address), lab, readFileSync(image));
  t.diagnostic(receipt.steps.map(({ name, durationMs }) => `${name} ${durationMs} ms`).join(", "));
  const log = readFileSync(join(lab.directory, "console.log"), "utf8");
  assert.doesNotMatch(log, /Loading: .*T /, "U-Boot never had to time out");
});

test("a kernel that is missing on the TFTP server is an error at once", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const run = flash(lab, randomImage(lab.directory, mebi), "--off-time", "2");
  await run.says(/done +boot servers/);
  await rm(join(lab.directory, "tftp/Image"));
  await assertFailed(run, lab, "load kernel", /could not load Image: .*not found/i);
  const { steps } = receiptOf(lab);
  const load = steps.find(({ name }) => name === "load kernel");
  assert.ok((load?.durationMs ?? Infinity) < 30_000, "not only after a time-out");
});
