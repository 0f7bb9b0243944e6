// What our muxes do beside the methods of the Python exporter: over the wire, by the typed client and by `j`.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { createReadStream, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { connect } from "../../../../agent/client/connect.ts";
import type { AnyDriver } from "../../../../agent/driver/driver.ts";
import { shippedDrivers } from "../../../../agent/driver/catalog.ts";
import { imageStorageMux, type ImageWriteProgress } from "../../../../boards/storage/interface.ts";
import { scratch } from "../../../sim/agent.ts";
import { startExporter } from "../../../sim/exporter.ts";
import { loopDisk, missingLoops } from "../../../sim/loop.ts";
import { loopMux, ReceiptList } from "../../../sim/loop-mux.ts";
import { clientEnv, clientProgram, missingClient, run } from "../../../sim/python-client.ts";

const mebi = 2 ** 20;
const skip = missingLoops;

async function start(t: TestContext) {
  const disk = loopDisk(t);
  const kept = new ReceiptList();
  const sides: string[] = [];
  const mux = loopMux({ path: disk.path }, { onSelect: (side) => sides.push(side) }) as unknown as AnyDriver;
  const config = { storage_timeout: 1, storage_leeway: 0 };
  const { socketPath } = await startExporter(
    t,
    {
      storage: { type: "test.Mux", config },
      mock: { type: "jumpstarter_driver_opendal.driver.MockStorageMuxFlasher" },
    },
    {
      receipts: kept,
      catalog: {
        types: () => shippedDrivers.types(),
        load: (type) => (type === "test.Mux" ? Promise.resolve(mux) : shippedDrivers.load(type)),
      },
    },
  );
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = client.find("storage");
  assert.ok(node);
  return { disk, kept, sides, socketPath, node, calls: node.as(imageStorageMux), folder: scratch(t) };
}

test("write_image tells how it gets on, and its receipt last", { skip }, async (t) => {
  const { disk, kept, node, calls } = await start(t);
  const image = randomBytes(9 * mebi);
  const items: ImageWriteProgress[] = [];
  await node.lendSource(Readable.from([image], { objectMode: false }), async (handle) => {
    const options = { name: "nightly.raw", bytes: image.length };
    for await (const item of calls.write_image(handle, null, options)) items.push(item);
  });
  const last = items.pop();
  assert.equal(last?.receipt?.verdict, "verified");
  assert.equal(last.receipt.image.name, "nightly.raw");
  assert.equal(last.receipt.image.sha256, createHash("sha256").update(image).digest("hex"));
  assert.deepEqual(last.receipt, JSON.parse(JSON.stringify(kept.receipts[0])));
  assert.ok(items.length > 0);
  for (const item of items) assert.equal(item.receipt, null);
  assert.ok(
    items.some(({ phase, bytes, total_bytes }) => phase === "write" && bytes > 0 && total_bytes === image.length),
  );
  assert.ok(readFileSync(disk.backing).subarray(0, image.length).equals(image));
});

test("a write_image that fails has its receipt before its error; one that is left is given up", { skip }, async (t) => {
  const { kept, node, calls } = await start(t);
  const write = async (source: Readable, onItem: (item: ImageWriteProgress) => void | "leave") => {
    await node.lendSource(source, async (handle) => {
      for await (const item of calls.write_image(handle)) if (onItem(item) === "leave") return;
    });
  };
  const verdicts: unknown[] = [];
  const tooMuch = Readable.from([Buffer.alloc(17 * mebi, 1)], { objectMode: false });
  await assert.rejects(
    write(tooMuch, ({ receipt }) => void verdicts.push(receipt?.verdict)),
    { message: /larger/ },
  );
  assert.equal(verdicts.at(-1), "failed");

  const endless = new Readable({ read() {} });
  endless.push(Buffer.alloc(5 * mebi, 1));
  await write(endless, () => "leave");
  // The next one waits until it has ended.
  await calls.dut();
  assert.deepEqual(
    kept.receipts.map(({ verdict, failure }) => `${verdict} ${failure?.code}`),
    ["failed E_TARGET", "failed E_CANCELLED"],
  );
});

test("the Python exporter's write makes a receipt, too", { skip }, async (t) => {
  const { disk, kept, node, calls } = await start(t);
  // Compressed data is written as it is, as the Python exporter writes it.
  const image = gzipSync(randomBytes(mebi));
  await node.lendSource(Readable.from([image], { objectMode: false }), (handle) => calls.write(handle));
  assert.ok(readFileSync(disk.backing).subarray(0, image.length).equals(image));
  assert.deepEqual(
    kept.receipts.map(({ verdict, image }) => [verdict, image.content?.bytes]),
    [["verified", image.length]],
  );
});

test("read_image sends an Android sparse image, and the digest of the medium", { skip }, async (t) => {
  const { disk, node, calls, folder } = await start(t);
  const content = Buffer.alloc(16 * mebi);
  randomBytes(mebi).copy(content, 3 * mebi);
  writeFileSync(disk.backing, content);
  const path = join(folder, "card.simg");
  const { createWriteStream } = await import("node:fs");
  let digest: string | null = null;
  await node.lendSink(createWriteStream(path), async (handle) => {
    for await (const { sha256 } of calls.read_image(handle, { format: "android-sparse" })) digest = sha256;
  });
  assert.equal(digest, createHash("sha256").update(content).digest("hex"));
  execFileSync("simg2img", [path, `${path}.raw`]);
  assert.ok(readFileSync(`${path}.raw`).equals(content));
  // And it can be flashed as it is.
  writeFileSync(disk.backing, Buffer.alloc(16 * mebi, 0xff));
  await node.lendSource(createReadStream(path), async (handle) => {
    for await (const _ of calls.write_image(handle));
  });
  assert.ok(readFileSync(disk.backing).equals(content));
});

test("j flashes with a block map and skips what is there; dumps are what their names say", { skip }, async (t) => {
  const { disk, kept, sides, socketPath, folder } = await start(t);
  const j = (...words: string[]) =>
    run(process.execPath, ["--import", "tsx", "agent/cli/j.ts", ...words], {
      env: { JUMPSTARTER_HOST: socketPath, STATE_DIRECTORY: folder },
    });
  const content = Buffer.alloc(16 * mebi);
  randomBytes(mebi).copy(content, mebi);
  const image = join(folder, "image.raw");
  writeFileSync(`${image}.full`, content);
  execFileSync("cp", ["--sparse=always", `${image}.full`, image]);
  execFileSync("bmaptool", ["-q", "create", "-o", `${image}.bmap`, image]);
  writeFileSync(`${image}.gz`, gzipSync(content));
  writeFileSync(disk.backing, Buffer.alloc(16 * mebi, 0xff));

  const flashed = await j("storage", "flash", `${image}.gz`, "--bmap", "auto");
  assert.equal(flashed.code, 0, flashed.stderr);
  assert.match(flashed.stderr, /^verified: 1048576 bytes, sha256 [0-9a-f]{64}$/m);
  assert.deepEqual(sides, ["host", "host", "dut"]);
  assert.deepEqual(kept.receipts[0]?.ranges?.written, [{ start: mebi, end: 2 * mebi }]);
  const medium = readFileSync(disk.backing);
  assert.ok(medium.subarray(mebi, 2 * mebi).equals(content.subarray(mebi, 2 * mebi)));
  assert.equal(medium[0], 0xff);

  const sparse = join(folder, "card.simg.gz");
  const dumped = await j("storage", "dump", sparse);
  assert.equal(dumped.code, 0, dumped.stderr);
  writeFileSync(join(folder, "card.simg"), gunzipSync(readFileSync(sparse)));
  execFileSync("simg2img", [join(folder, "card.simg"), join(folder, "card")]);
  assert.ok(readFileSync(join(folder, "card")).equals(medium));

  const refused = await j("mock", "flash", image, "--no-verify");
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /this storage cannot do that/);
  const mocked = await j("mock", "flash", image);
  assert.equal(mocked.code, 0, mocked.stderr);
  const unverified = await j("storage", "flash", image, "--no-verify");
  assert.equal(unverified.code, 0, unverified.stderr);
  assert.equal(kept.receipts.at(-1)?.verdict, "written");
});

test(
  "the Python client flashes a loop device and gets it back",
  { skip: skip || missingClient("0.9.0") },
  async (t) => {
    const { disk, kept, sides, socketPath, folder } = await start(t);
    const image = join(folder, "image");
    const content = randomBytes(3 * mebi);
    writeFileSync(image, content);
    const options = { env: clientEnv(socketPath) };
    const flashed = await run(clientProgram("0.9.0", "j"), ["storage", "flash", image], options);
    assert.equal(flashed.code, 0, flashed.stderr);
    assert.deepEqual(sides, ["host", "host", "dut"]);
    assert.deepEqual([kept.receipts[0]?.verdict, kept.receipts[0]?.image.content?.bytes], ["verified", content.length]);
    assert.ok(readFileSync(disk.backing).subarray(0, content.length).equals(content));
    const dumped = join(folder, "dump");
    const read = await run(clientProgram("0.9.0", "j"), ["storage", "dump", dumped], options);
    assert.equal(read.code, 0, read.stderr);
    assert.ok(existsSync(dumped) && readFileSync(dumped).equals(readFileSync(disk.backing)));

    // Larger than the medium: the client must not take it for done.
    writeFileSync(image, Buffer.alloc(17 * mebi, 1));
    const failed = await run(clientProgram("0.9.0", "j"), ["storage", "flash", image], options);
    assert.notEqual(failed.code, 0);
    assert.equal(kept.receipts.at(-1)?.verdict, "failed");
  },
);
