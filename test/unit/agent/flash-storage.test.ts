// `jmp-agent flash --storage` and `jmp-agent dump` without their command line, on loop devices.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { gunzipSync } from "node:zlib";
import { zstdImage } from "../../sim/images.ts";
import { dumpStorage } from "../../../agent/cli/dump.ts";
import { flashStorage } from "../../../agent/cli/flash-storage.ts";
import type { FlashReceipt } from "../../../agent/driver/receipt.ts";
import { Interrupted } from "../../../agent/cli/signals.ts";
import { scratch } from "../../sim/agent.ts";
import { loopDisk, missingLoops } from "../../sim/loop.ts";
import { loopMux, muxExporter } from "../../sim/loop-mux.ts";

const mebi = 2 ** 20;
const skip = missingLoops;
const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const never = new AbortController().signal;

async function bench(t: TestContext, config: Record<string, unknown> = {}) {
  const disk = loopDisk(t);
  const sides: string[] = [];
  const { exporter, kept } = await muxExporter(
    t,
    loopMux({ path: disk.path }, { onSelect: (side) => sides.push(side) }),
    config,
  );
  const power: string[] = [];
  exporter.logs.subscribe(({ message }) => {
    if (/^power o/.test(message)) power.push(message);
  });
  const folder = scratch(t);
  const receiptPath = join(folder, "receipt.json");
  const flash = async (image: string, options: object = {}, signal = never) => {
    const code = await flashStorage(exporter, image, { storage: "storage", receipt: receiptPath, ...options }, signal);
    const receipt = JSON.parse(readFileSync(receiptPath, "utf8")) as FlashReceipt;
    return { code, receipt };
  };
  return { disk, sides, exporter, kept, power, folder, flash };
}

/** 4 MiB, of which the second and fourth are nothing. */
function holeyImage(): Buffer {
  return Buffer.concat([randomBytes(mebi), Buffer.alloc(mebi), randomBytes(mebi), Buffer.alloc(mebi)]);
}

test("a compressed image with its block map beside is written, read back, and told of", { skip }, async (t) => {
  const { disk, sides, kept, power, folder, flash } = await bench(t);
  const image = holeyImage();
  const raw = join(folder, "image.wic");
  writeFileSync(raw, image);
  execFileSync("cp", ["--sparse=always", raw, `${raw}.holes`]);
  execFileSync("bmaptool", ["-q", "create", "-o", `${raw}.bmap`, `${raw}.holes`]);
  const packed = zstdImage(`${raw}.holes`, `${raw}.zst`);
  writeFileSync(disk.backing, Buffer.alloc(16 * mebi, 0x55));

  const { code, receipt } = await flash(`${raw}.zst`);
  assert.equal(code, 0);
  assert.deepEqual(sides, ["host", "dut"]);
  assert.deepEqual(power, [], "power is left alone");
  const medium = readFileSync(disk.backing);
  assert.ok(medium.subarray(0, mebi).equals(image.subarray(0, mebi)));
  assert.ok(medium.subarray(2 * mebi, 3 * mebi).equals(image.subarray(2 * mebi, 3 * mebi)));
  assert.equal(medium[mebi], 0x55, "what the map leaves out is not written");
  assert.equal(receipt.verdict, "verified");
  assert.equal(receipt.method, "block");
  assert.equal(receipt.driver, "storage");
  assert.equal(receipt.image.name, `${raw}.zst`);
  assert.equal(receipt.image.encoding, "zstd");
  assert.equal(receipt.image.sha256, sha256(packed));
  assert.equal(receipt.image.content?.bytes, 4 * mebi);
  assert.equal(receipt.image.content.mappedBytes, 2 * mebi);
  const mapped = sha256(Buffer.concat([image.subarray(0, mebi), image.subarray(2 * mebi, 3 * mebi)]));
  assert.equal(receipt.image.content.sha256, mapped);
  assert.equal(receipt.readBackSha256, mapped);
  assert.deepEqual(receipt.ranges?.written, [
    { start: 0, end: mebi },
    { start: 2 * mebi, end: 3 * mebi },
  ]);
  assert.equal(receipt.target?.path, disk.path);
  assert.deepEqual(
    receipt.steps.map(({ name, verdict }) => `${name} ${verdict}`),
    ["prepare ok", "switch to host ok", "wait ok", "write ok", "sync ok", "verify ok"],
  );
  assert.equal(kept.begun.length, 1);
});

test("what is on the medium already is compared and not written again", { skip }, async (t) => {
  process.env["STATE_DIRECTORY"] = scratch(t);
  t.after(() => delete process.env["STATE_DIRECTORY"]);
  const { disk, folder, flash } = await bench(t);
  const image = randomBytes(4 * mebi);
  const path = join(folder, "image.raw");
  writeFileSync(path, image);
  const first = await flash(path, { "skip-unchanged": true });
  assert.deepEqual(first.receipt.ranges?.unchanged, []);
  image[3 * mebi + 5] = (image[3 * mebi + 5] ?? 0) ^ 1;
  writeFileSync(path, image);
  const { code, receipt } = await flash(path, { "skip-unchanged": true });
  assert.equal(code, 0);
  assert.deepEqual(receipt.ranges?.unchanged, [{ start: 0, end: 3 * mebi }]);
  assert.deepEqual(receipt.ranges.written, [{ start: 3 * mebi, end: 4 * mebi }]);
  assert.ok(readFileSync(disk.backing).subarray(0, image.length).equals(image));
});

test("power is switched off before and on after, where it is asked for", { skip }, async (t) => {
  const { power, folder, flash } = await bench(t);
  const path = join(folder, "image.raw");
  writeFileSync(path, randomBytes(mebi));
  assert.equal((await flash(path, { power: "power" })).code, 0);
  assert.equal(power.length, 2);
  writeFileSync(path, randomBytes(17 * mebi));
  assert.equal((await flash(path, { power: "power" })).code, 1);
  assert.equal(power.length, 3, "a board whose flash failed stays off");
});

test("Ctrl-C in the middle of a write leaves the storage at the board, and a receipt", { skip }, async (t) => {
  const { disk, sides, flash, exporter } = await bench(t);
  const aborter = new AbortController();
  // A server that falls silent in the middle.
  const server = createServer((_request, response) => {
    response.writeHead(200, { "content-length": 12 * mebi }).write(Buffer.alloc(9 * mebi, 1));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  exporter.logs.subscribe(({ message }) => {
    if (/^written/.test(message)) aborter.abort(new Interrupted({ signal: "SIGINT", exitCode: 130 }));
  });
  const { code, receipt } = await flash(`http://127.0.0.1:${port}/image.raw`, {}, aborter.signal);
  assert.equal(code, 130);
  assert.deepEqual([receipt.verdict, receipt.failure?.code, receipt.failure?.step], ["failed", "E_CANCELLED", "write"]);
  assert.deepEqual(sides, ["host", "dut"]);
  assert.equal(
    readdirSync("/proc/self/fd").some((fd) => linkOf(fd) === disk.path),
    false,
  );
});

function linkOf(fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined;
  }
}

test("a dump is raw with holes and a block map, compressed, or an Android sparse image", { skip }, async (t) => {
  const { disk, sides, exporter, folder } = await bench(t);
  const content = Buffer.concat([holeyImage(), Buffer.alloc(12 * mebi)]);
  content.fill(0xff, 9 * mebi, 10 * mebi);
  writeFileSync(disk.backing, content);
  const dump = async (name: string, bmap = false) => {
    const path = join(folder, name);
    const { bytes, sha256: digest } = await dumpStorage(exporter, path, "storage", { bmap, signal: never });
    assert.equal(bytes, content.length);
    assert.equal(digest, sha256(content));
    return path;
  };
  const raw = await dump("card.img", true);
  assert.ok(readFileSync(raw).equals(content));
  assert.ok(statSync(raw).blocks * 512 < 5 * mebi, "zeros take no room");
  const copy = join(folder, "copy");
  // Which checks the map's own checksum and those of its ranges.
  execFileSync("bmaptool", ["-q", "copy", "--bmap", `${raw}.bmap`, raw, copy]);
  assert.ok(readFileSync(copy).equals(content));
  assert.match(readFileSync(`${raw}.bmap`, "utf8"), /<MappedBlocksCount>768</);

  const packed = await dump("card.img.gz");
  assert.ok(gunzipSync(readFileSync(packed)).equals(content));

  const sparse = await dump("card.simg");
  assert.ok(statSync(sparse).size < 3 * mebi);
  execFileSync("simg2img", [sparse, join(folder, "unsparse")]);
  assert.ok(readFileSync(join(folder, "unsparse")).equals(content));
  assert.deepEqual(sides, ["host", "dut", "host", "dut", "host", "dut"]);
});

test("a dump that fails leaves no file, and the storage at the board", { skip }, async (t) => {
  const { sides, exporter, folder } = await bench(t);
  const aborter = new AbortController();
  aborter.abort();
  const path = join(folder, "card.img");
  await assert.rejects(dumpStorage(exporter, path, "storage", { signal: aborter.signal }));
  mkdirSync(join(folder, "directory"));
  await assert.rejects(dumpStorage(exporter, join(folder, "directory"), "storage", { signal: never }), {
    code: "E_INVALID",
  });
  await assert.rejects(dumpStorage(exporter, join(folder, "a.simg"), "storage", { bmap: true, signal: never }), {
    code: "E_USAGE",
  });
  assert.deepEqual(readdirSync(folder), ["directory"]);
  assert.equal(existsSync(path), false);
  assert.equal(sides.at(-1), "dut");
});

test("what cannot be flashed is said before anything is touched", { skip }, async (t) => {
  const { sides, exporter, folder } = await bench(t);
  const image = join(folder, "image");
  writeFileSync(image, "image");
  const flash = (path: string, options: object) =>
    flashStorage(exporter, path, { storage: "storage", ...options }, never);
  await assert.rejects(flash(image, { storage: "power" }), { code: "E_USAGE", message: /one of storage$/ });
  await assert.rejects(flash(image, { bmap: "a", "no-bmap": true }), { code: "E_USAGE" });
  await assert.rejects(flash(join(folder, "none"), {}), { code: "ENOENT" });
  await assert.rejects(flash(image, { bmap: join(folder, "none") }), { code: "ENOENT" });
  await assert.rejects(flash(image, { power: "storage" }), { code: "E_CONFIG" });
  assert.deepEqual(sides, []);
});
