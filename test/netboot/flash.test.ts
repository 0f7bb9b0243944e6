import assert from "node:assert/strict";
import { createHash, randomFillSync } from "node:crypto";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { open, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { FlashReport } from "../../agent/driver/receipt.ts";
import { connect, type Client } from "../../agent/client/connect.ts";
import { http as httpInterface } from "../../net/http/interface.ts";
import { tftp as tftpInterface } from "../../net/tftp/interface.ts";
import { flashDevices } from "../../bundles/flash/devices.ts";
import { flash as flashBoard } from "../../bundles/flash/flash.ts";
import { openImageSource } from "../../bundles/flash/image-source.ts";
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

function receiptOf(lab: Lab): FlashReport {
  return JSON.parse(readFileSync(join(lab.directory, "receipt.json"), "utf8")) as FlashReport;
}

/** Waits for success and compares the board's disk with the image, from outside. */
async function assertFlashed(run: AgentRun, lab: Lab, content: Buffer): Promise<FlashReport> {
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

async function connectTo(t: TestContext, lab: Lab): Promise<Client> {
  const { socketPath } = await lab.serve();
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  return client;
}

/** Flashes over a session; as soon as the console has said `when`, something happens. */
async function flashOver(
  client: Client,
  { image, when, then }: { image: string; when: RegExp; then: () => Promise<void> },
): Promise<FlashReport> {
  const driver = (path: string) => client.find(path) ?? assert.fail(`no driver ${path}`);
  const devices = flashDevices(
    "flasher",
    (path, wanted) => driver(path).as(wanted),
    (source, use) => driver("flasher.http.storage").lendSource(source, use),
  );
  let said = "";
  let happened: Promise<void> | undefined;
  const receipt = await flashBoard(devices, {
    image: await openImageSource(image, { signal: new AbortController().signal }),
    retries: 0,
    driver: "flasher",
    method: "shell",
    offMs: 0,
    transcript: (chunk) => {
      said += chunk.toString();
      if (happened === undefined && when.test(said)) happened = then();
    },
  });
  await happened;
  assert.ok(happened, "it came to that");
  assert.equal(receipt.verdict, "failed");
  return receipt;
}

test("jmp-agent flash puts a 64 MiB image on the board's disk in less than a minute", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const image = randomImage(lab.directory, 64 * mebi);
  const receipt = await assertFlashed(flash(lab, image), lab, readFileSync(image));
  t.diagnostic(receipt.steps.map(({ name, durationMs }) => `${name} ${durationMs} ms`).join(", "));
  assert.ok((receipt.durationMs ?? Infinity) < 60_000, `took ${receipt.durationMs} ms`);
  assert.equal(receipt.target?.path, "/dev/vda");
  assert.deepEqual(
    receipt.bundle?.files.map(({ name }) => name),
    ["Image", "initramfs.gz", "virt.dtb"],
  );
  assert.match(receipt.versions?.["uboot"] ?? "", /^U-Boot 20/);
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

test("a TFTP server that goes away in mid-transfer fails the step, not the patience", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const client = await connectTo(t, lab);
  const tftp = client.find("flasher.tftp")?.as(tftpInterface);
  const receipt = await flashOver(client, {
    image: randomImage(lab.directory, mebi),
    // A full line of marks: 65 of them, ten packets each.
    when: /Loading: \*.*#{65}/s,
    then: async () => void (await tftp?.stop()),
  });
  assert.equal(receipt.failure?.step, "load kernel");
  assert.match(receipt.failure.message, /could not load Image: (Retry count exceeded|TFTP error)/);
});

test("an HTTP body that is cut off fails the write", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const client = await connectTo(t, lab);
  const http = client.find("flasher.http")?.as(httpInterface);
  const image = join(lab.directory, "holes.img");
  await writeFile(image, "");
  await truncate(image, 96 * mebi);
  const receipt = await flashOver(client, {
    image,
    when: /curl -fsSL/,
    then: async () => {
      await sleep(300);
      await http?.stop();
    },
  });
  assert.equal(receipt.failure?.step, "write");
  assert.match(receipt.failure.message, /on the board: .*(closed|short|refused|reset)/);
});

test("an image that arrives short is noticed on the board's disk", { skip }, async (t) => {
  const lab = await startLab(t, bundle, { kind: "user" });
  const run = flash(lab, randomImage(lab.directory, 2 * mebi));
  await run.says(/done +stage image/);
  const [staged = ""] = (await readdir(join(lab.directory, "http"))).filter((name) => name.startsWith("flash-"));
  await truncate(join(lab.directory, "http", staged), mebi);
  await assertFailed(run, lab, "verify", /\/dev\/vda holds other data than the image/);
});
