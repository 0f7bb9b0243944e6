// What all storage muxes do alike, on a loop device whose medium is taken out and put in.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { Readable, Writable } from "node:stream";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { connect } from "../../../../agent/client/connect.ts";
import { createCatalog } from "../../../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver } from "../../../../agent/driver/driver.ts";
import { imageStorageMux } from "../../../../boards/storage/interface.ts";
import { muxConfig, openMux } from "../../../../boards/storage/mux.ts";
import composite from "../../../../boards/composite/driver.ts";
import { compositeType } from "../../../../agent/driver/plan.ts";
import { startExporter } from "../../../sim/exporter.ts";
import { loopDisk, missingLoops, type LoopDisk } from "../../../sim/loop.ts";

const mebi = 2 ** 20;
const skip = missingLoops;

/** A mux that takes a moment to switch. */
function loopMux(disk: LoopDisk, events: string[]) {
  let side = "host";
  let isSwitching = false;
  return defineDriver({
    types: ["test.Mux"],
    summary: "A medium in a loop device.",
    implements: imageStorageMux,
    config: z.strictObject(muxConfig),
    open: ({ config, ...context }) =>
      openMux(
        {
          key: disk.path,
          async select(wanted) {
            assert.equal(isSwitching, false, "one after the other");
            isSwitching = true;
            await sleep(20);
            if (side === "host" && wanted !== "host") disk.eject();
            if (side !== "host" && wanted === "host") disk.insert();
            side = wanted;
            events.push(wanted);
            isSwitching = false;
          },
          locate: () => disk.path,
        },
        config,
        context,
      ),
  });
}

async function start(t: TestContext, names = ["storage"]) {
  const disk = loopDisk(t);
  const events: string[] = [];
  const load = (driver: unknown) => () => Promise.resolve(driver as AnyDriver);
  const catalog = createCatalog(
    new Map([
      ["test.Mux", load(loopMux(disk, events))],
      [compositeType, load(composite)],
    ]),
  );
  const config = { storage_timeout: 1, storage_leeway: "0.01" };
  const drivers = Object.fromEntries(names.map((name) => [name, { type: "test.Mux", config }]));
  const { exporter, socketPath } = await startExporter(t, drivers, { catalog });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const nodes = names.map((name) => {
    const node = client.find(name);
    assert.ok(node);
    return { node, calls: node.as(imageStorageMux) };
  });
  return { disk, events, exporter, nodes };
}

type Node = Awaited<ReturnType<typeof start>>["nodes"][number];

async function write({ node, calls }: Node, source: Readable): Promise<void> {
  await node.lendSource(source, (handle) => calls.write(handle));
}

function isOpen(path: string): boolean {
  return readdirSync("/proc/self/fd").some((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === path;
    } catch {
      return false;
    }
  });
}

test("write and read switch to the host first, and leave it there", { skip }, async (t) => {
  const { disk, events, nodes } = await start(t);
  const [storage] = nodes;
  assert.ok(storage);
  await storage.calls.dut();
  const image = randomBytes(3 * mebi + 5);
  await write(storage, Readable.from([image], { objectMode: false }));
  await storage.calls.off();
  const pieces: Buffer[] = [];
  const sink = new Writable({
    write(piece: Buffer, _encoding, done) {
      pieces.push(piece);
      done();
    },
  });
  await storage.node.lendSink(sink, (handle) => storage.calls.read(handle));
  assert.deepEqual(events, ["dut", "host", "off", "host"]);
  assert.ok(Buffer.concat(pieces).equals(readFileSync(disk.backing)));
  assert.ok(Buffer.concat(pieces).subarray(0, image.length).equals(image));
});

test("what is asked of one device, by whatever driver, is done one after the other", { skip }, async (t) => {
  const { events, nodes } = await start(t, ["first", "second"]);
  const [first, second] = nodes;
  assert.ok(first && second);
  const source = new Readable({ read() {} });
  source.push(Buffer.alloc(5 * mebi, 1));
  const writing = write(first, source);
  while (events.length === 0) await sleep(5);
  const after = [second.calls.dut(), first.calls.off(), second.calls.dut()];
  await sleep(100);
  assert.deepEqual(events, ["host"], "the write is not disturbed");
  source.push(null);
  await Promise.all([writing, ...after]);
  assert.deepEqual([...events].sort(), ["dut", "dut", "host", "off"]);
  assert.equal(events[0], "host");
});

test("a lease that ends in the middle of a write ends it, and what waits for it", { skip }, async (t) => {
  const { disk, events, exporter, nodes } = await start(t);
  const [storage] = nodes;
  assert.ok(storage);
  const source = new Readable({ read() {} });
  source.push(Buffer.alloc(9 * mebi, 1));
  const writing = assert.rejects(write(storage, source), { code: "E_CANCELLED" });
  while (!isOpen(disk.path)) await sleep(5);
  let started = 0;
  exporter.logs.subscribe(({ message }) => (started += message === "Operation started" ? 1 : 0));
  const waiting = assert.rejects(storage.calls.dut(), { code: "E_CANCELLED" });
  while (started === 0) await sleep(5);
  // Now the driver is called, in this turn or the next.
  await sleep(20);
  await exporter.tree.release();
  assert.equal(isOpen(disk.path), false, "nothing touches the disk any more");
  await Promise.all([writing, waiting]);
  assert.deepEqual(events, ["host"]);
  await storage.calls.dut();
  assert.deepEqual(events, ["host", "dut"], "the next lease can go on");
});
