// Media that lie and fail: no flash of them may count as done.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { flashStorage } from "../../../agent/cli/flash-storage.ts";
import { main } from "../../../agent/cli/main.ts";
import type { FlashReceipt } from "../../../agent/driver/receipt.ts";
import { byteStream, defineInterface } from "../../../agent/driver/interface.ts";
import { loopDisk } from "../../sim/loop.ts";
import { loopMux, muxExporter } from "../../sim/loop-mux.ts";
import { badSectors, flakey, linear, loadMapper, mappedMedium, slow } from "./lib/media.ts";
import { loadModules, quick, sdWire } from "./lib/muxes.ts";
import { exec, modprobe, modprobeAnew, waitFor } from "./lib/system.ts";

const mebi = 2 ** 20;

test.before(loadMapper);

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "media-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function bench(t: TestContext, path: string, bytes = 3 * mebi) {
  const folder = folderOf(t);
  const image = join(folder, "image");
  writeFileSync(image, randomBytes(bytes));
  const { exporter, kept } = await muxExporter(t, loopMux({ path }));
  const aborter = new AbortController();
  const flash = async () => {
    const options = { storage: "storage", receipt: join(folder, "receipt.json") };
    const code = await flashStorage(exporter, image, options, aborter.signal);
    return { code, receipt: JSON.parse(readFileSync(options.receipt, "utf8")) as FlashReceipt };
  };
  const lines: string[] = [];
  let onLine = (_line: string): void => {};
  exporter.logs.subscribe(({ message }) => {
    lines.push(message);
    onLine(message);
  });
  return { image, exporter, kept, flash, aborter, lines, on: (listen: (line: string) => void) => (onLine = listen) };
}

function scsiDebugDisk(): string | undefined {
  return readdirSync("/sys/block").find((name) => {
    const model = `/sys/block/${name}/device/model`;
    return existsSync(model) && readFileSync(model, "utf8").startsWith("scsi_debug") && existsSync(`/dev/${name}`);
  });
}

/** A disk of the kernel's own, with these properties; one with others may be there from an earlier test. @returns its name */
async function scsiDebug(t: TestContext, ...options: string[]): Promise<string> {
  await modprobe("sd_mod");
  await modprobeAnew("scsi_debug", ...options);
  t.after(() => exec("modprobe", "-r", "scsi_debug"));
  return await waitFor("the disk", scsiDebugDisk);
}

/** The flash of a medium fails in this step, for this reason, and says so everywhere. */
async function fails(t: TestContext, path: string, step: string, code: string, message: RegExp): Promise<void> {
  const { flash, kept } = await bench(t, path);
  const failed = await flash();
  assert.equal(failed.code, 1);
  assert.equal(failed.receipt.verdict, "failed");
  assert.match(failed.receipt.failure?.message ?? "", message);
  assert.deepEqual([failed.receipt.failure?.step, failed.receipt.failure?.code], [step, code]);
  assert.deepEqual(JSON.parse(JSON.stringify(kept.receipts)), [failed.receipt]);
}

test("a medium that changes a byte of each write fails, and its first wrong range is named", async (t) => {
  const { path } = await mappedMedium(t, flakey("corrupt_bio_byte", 32, "w", 0, 0));
  await fails(t, path, "verify", "E_DIGEST", /holds other bytes than were written to it: bytes 0 to 1048575 differ/);
});

test("a medium whose reads lie fails", async (t) => {
  const { path } = await mappedMedium(t, flakey("corrupt_bio_byte", 224, "r", 0, 0));
  await fails(t, path, "verify", "E_DIGEST", /bytes 0 to 1048575 differ/);
});

test("a medium that acknowledges writes and forgets them fails", async (t) => {
  const { path, disk } = await mappedMedium(t, flakey("drop_writes"));
  await fails(t, path, "verify", "E_DIGEST", /bytes 0 to 1048575 differ/);
  assert.ok(readFileSync(disk.backing).equals(Buffer.alloc(8 * mebi)), "it has forgotten them");
});

test("one bit that flips behind the agent's back fails, with its range", async (t) => {
  const { path, disk } = await mappedMedium(t, linear);
  const { flash, on } = await bench(t, path);
  on((line) => {
    if (!line.startsWith("reading back")) return;
    const medium = readFileSync(disk.backing);
    medium[2 * mebi + 77] = (medium[2 * mebi + 77] ?? 0) ^ 0x20;
    writeFileSync(disk.backing, medium, { flag: "r+" });
  });
  const { code, receipt } = await flash();
  assert.equal(code, 1);
  assert.match(receipt.failure?.message ?? "", /bytes 2097152 to 3145727 differ/);
});

test("writes that fail for good end the flash where they fail", async (t) => {
  const { path } = await mappedMedium(t, badSectors(2 * 2048, 8));
  await fails(t, path, "write", "E_IO", /^write of \/dev\/dm-.* at byte \d+ failed in 4 attempts/);
});

test("writes that fail for a moment are repeated", async (t) => {
  const medium = await mappedMedium(t, flakey("error_writes"));
  const { flash, on, lines, image } = await bench(t, medium.path);
  let mending: Promise<void> | undefined;
  on((line) => {
    if (/trying again/.test(line)) mending ??= medium.load(linear);
  });
  const { code, receipt } = await flash();
  await mending;
  assert.equal(code, 0, lines.join("\n"));
  assert.equal(receipt.verdict, "verified");
  const content = readFileSync(image);
  assert.ok(readFileSync(medium.disk.backing).subarray(0, content.length).equals(content));
});

test("a console goes on streaming while a disk fails", async (t) => {
  const { path } = await mappedMedium(t, flakey("error_writes"));
  const { flash, exporter } = await bench(t, path);
  const console_ = defineInterface({ driverType: "serial", client: "none", methods: { connect: byteStream() } });
  const stream = await exporter.calls("console", console_).connect();
  let received = 0;
  let lastMs = performance.now();
  let longestMs = 0;
  stream.on("data", (piece: Buffer) => {
    received += piece.length;
    longestMs = Math.max(longestMs, performance.now() - lastMs);
    lastMs = performance.now();
  });
  let isDone = false;
  const talking = (async () => {
    let sent = 0;
    for (; !isDone; sent += 4) {
      stream.write("tick");
      await sleep(10);
    }
    return sent;
  })();
  const { code, receipt } = await flash();
  isDone = true;
  const sent = await talking;
  assert.deepEqual([code, receipt.failure?.code], [1, "E_IO"]);
  await waitFor("all of it has come back", () => received === sent);
  stream.destroy();
  t.diagnostic(`${received} bytes, longest silence ${longestMs.toFixed(0)} ms`);
  assert.ok(longestMs < 1_000, `silent for ${longestMs} ms`);
});

test("a slow medium can be given up, and nothing goes on behind it", async (t) => {
  const { path, disk } = await mappedMedium(t, slow(300));
  const { flash, aborter, on } = await bench(t, path, 7 * mebi);
  on((line) => {
    if (/^storage device .* is ready/.test(line)) setTimeout(() => aborter.abort(), 100);
  });
  const { code, receipt } = await flash();
  assert.equal(code, 1);
  assert.equal(receipt.failure?.code, "E_CANCELLED");
  const left = readFileSync(disk.backing);
  await sleep(1_000);
  assert.ok(readFileSync(disk.backing).equals(left), "it is written after the flash has ended");
});

test("a disk that is pulled out in the middle of a write is told", async (t) => {
  const name = await scsiDebug(t, "dev_size_mb=16", "delay=0", "ndelay=2000000");
  const { flash, on } = await bench(t, `/dev/${name}`, 14 * mebi);
  on((line) => {
    if (/^written \d+ MB to/.test(line)) writeFileSync(`/sys/block/${name}/device/delete`, "1");
  });
  const { code, receipt } = await flash();
  assert.equal(code, 1);
  assert.match(receipt.failure?.message ?? "", /has gone while it was written|failed/);
  assert.equal(receipt.failure?.step, "write");
  assert.equal(existsSync(`/dev/${name}`), false);
});

test("a disk with unreadable sectors fails when it is read back", async (t) => {
  // It reports them for reads only, from the sector on, when its option 2 is set.
  const name = await scsiDebug(t, "dev_size_mb=8", "opts=2", "medium_error_start=2048", "medium_error_count=4");
  await fails(t, `/dev/${name}`, "verify", "E_IO", /^read of \/dev\/sd.* at byte \d+ failed/);
});

test("what the host has in use is not written: what is built on it, swap, mounts, partitions", async (t) => {
  const { path, disk } = await mappedMedium(t, linear);
  await fails(t, disk.path, "wait", "E_TARGET", /\/dev\/loop\d+ is part of dm-\d+ \(medium/);
  await exec("mkswap", path);
  await exec("swapon", path);
  await fails(t, path, "wait", "E_TARGET", /is swap space/);
  await fails(t, disk.path, "wait", "E_TARGET", /is swap space/);
  await exec("swapoff", path);
  await modprobe("ext4");
  await exec("mke2fs", "-q", "-F", "-t", "ext4", path);
  const folder = folderOf(t);
  await exec("mount", path, folder);
  await fails(t, path, "wait", "E_TARGET", /is mounted at/);
  await fails(t, disk.path, "wait", "E_TARGET", /is mounted at/);
  await exec("umount", folder);
  const readOnly = loopDisk(t, { readOnly: true, sizeBytes: 8 * mebi });
  await fails(t, readOnly.path, "wait", "E_TARGET", /read-only/);
  const small = loopDisk(t, { sizeBytes: mebi });
  await fails(t, small.path, "write", "E_TARGET", /larger/);
  await fails(t, folder, "wait", "E_TARGET", /is not a block device/);
  await fails(t, "/dev/null", "wait", "E_TARGET", /is not a block device/);
  const { flash } = await bench(t, path);
  assert.equal((await flash()).code, 0, "and when nobody uses it any more it is");
});

test("jmp-agent flash and dump go through an SDWire, to the board in the end", async (t) => {
  await loadModules();
  const { card, disk } = await sdWire(t);
  const folder = folderOf(t);
  const [image, config, receipt, dumped] = ["image", "exporter.yaml", "receipt.json", "dump"].map((name) =>
    join(folder, name),
  ) as [string, string, string, string];
  const content = randomBytes(mebi + 100);
  writeFileSync(image, content);
  const storage = {
    type: "jumpstarter_driver_sdwire.driver.SDWire",
    config: { serial: "sd-wire_11", storage_device: disk, ...quick },
  };
  writeFileSync(config, stringify({ metadata: { name: "bench" }, export: { storage } }));
  const of = ["--storage", "storage", "--exporter-config", config];
  assert.equal(await main(["flash", image, ...of, "--receipt", receipt]), 0);
  assert.equal(card.isAtHost, false);
  assert.ok(card.medium.subarray(0, content.length).equals(content));
  assert.equal((JSON.parse(readFileSync(receipt, "utf8")) as FlashReceipt).verdict, "verified");
  assert.equal(await main(["dump", dumped, ...of]), 0);
  assert.equal(card.isAtHost, false);
  assert.ok(readFileSync(dumped).equals(card.medium));
});
