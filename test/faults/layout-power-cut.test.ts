import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { artifactOf } from "../../bundles/oci/artifact.ts";
import { copyImage } from "../../bundles/oci/copy.ts";
import type { Digest } from "../../bundles/oci/digest.ts";
import { layoutSource } from "../../bundles/oci/layout.ts";
import { openLayoutSink } from "../../bundles/oci/layout-sink.ts";
import type { LayoutReference } from "../../bundles/oci/reference.ts";
import type { Source } from "../../bundles/oci/source.ts";
import { verifyImage, type Verdict } from "../../bundles/oci/verify.ts";
import { temporaryDirectory, writeFiles } from "../sim/bundle.ts";
import { recordDisk } from "../sim/power-cut.ts";

const cuts = 1000;
const signal = AbortSignal.timeout(300_000);

const layoutAt = (directory: string): LayoutReference => ({
  kind: "oci-layout",
  directory,
  tag: "v1",
  digest: undefined,
});

async function write({ source, digest }: { source: Source; digest: Digest }, directory: string): Promise<void> {
  const sink = await openLayoutSink(layoutAt(directory));
  try {
    await copyImage(source, digest, sink, { name: "a", named: { tag: "v1" }, signal });
    await sink.finish();
  } finally {
    await sink.close();
  }
}

/** What the tag leads to, every byte of it read. */
async function read(directory: string): Promise<Digest> {
  const source = layoutSource(layoutAt(directory));
  const digest = await source.resolve(signal);
  const bad: Verdict[] = [];
  const onVerdict = (verdict: Verdict) => void (verdict.error !== undefined && bad.push(verdict));
  await verifyImage(source, digest, { name: "a", signal, onVerdict });
  assert.deepEqual(bad, []);
  return digest;
}

test(`after a power cut a tag of a layout is the old or the new image, whole (${cuts} cuts)`, async (t) => {
  const versions = ["old", "new"].map(async (version) => {
    const directory = await writeFiles(t, { version, kernel: Buffer.alloc(3000, "kernel") });
    const titles = ["kernel", "version"];
    return await artifactOf(
      titles.map((title) => ({ title, path: join(directory, title) })),
      signal,
    );
  });
  const [before, after] = await Promise.all(versions);
  assert.ok(before !== undefined && after !== undefined);
  const recorded = await temporaryDirectory(t);
  const recording = recordDisk(t, recorded);
  await write(before, recorded);
  const start = recording.length;
  await write(after, recorded);
  assert.ok(recording.length - start > 10);

  // A generator that gives the same cuts each time (Numerical Recipes).
  let state = 1;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
  const seen = new Set<Digest>();
  const memory = existsSync("/dev/shm") ? "/dev/shm" : undefined;
  const restored = join(await temporaryDirectory(t, memory), "layout");
  await mkdir(restored);
  for (let run = 0; run < cuts; run += 1) {
    const cut = start + Math.floor(random() * (recording.length - start + 1));
    recording.restore(restored, cut, random);
    seen.add(await read(restored));
    if (run % 20 > 0) continue;
    await write(after, restored);
    assert.equal(await read(restored), after.digest);
  }
  assert.deepEqual([...seen].sort(), [before.digest, after.digest].sort());
});

test("two who write to one layout do not lose each other's images", async (t) => {
  const directory = join(await temporaryDirectory(t), "layout");
  const sink = await openLayoutSink(layoutAt(directory));
  await assert.rejects(openLayoutSink(layoutAt(directory)), {
    code: "E_IO",
    message: `somebody else is writing to ${directory}`,
  });
  await sink.close();
  await (await openLayoutSink(layoutAt(directory))).close();
});
