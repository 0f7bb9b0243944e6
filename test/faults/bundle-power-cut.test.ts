import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { AgentError } from "../../agent/driver/errors.ts";
import { LogBus } from "../../agent/driver/log.ts";
import { BundleCache } from "../../bundles/cache/cache.ts";
import type { Digest } from "../../bundles/oci/digest.ts";
import type { Source } from "../../bundles/oci/source.ts";
import { temporaryDirectory } from "../sim/bundle.ts";
import { recordDisk } from "../sim/power-cut.ts";
import { imageType, sha256 } from "../sim/registry.ts";

const cuts = 1000;
const log = new LogBus().logger({ source: "driver", logger: "test" });
const kernel = Buffer.alloc(3000, "kernel");

/** An image of the files, as a registry would give it. */
function imageOf(files: Record<string, Buffer>): { digest: Digest; source: Source } {
  const blobs = new Map(Object.values(files).map((content) => [sha256(content), content]));
  const layers = Object.entries(files).map(([title, content]) => ({
    mediaType: "application/octet-stream",
    digest: sha256(content),
    size: content.length,
    annotations: { "org.opencontainers.image.title": title },
  }));
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: imageType, layers }));
  const digest = sha256(bytes) as Digest;
  const source: Source = {
    resolve: async () => digest,
    tagged: async () => undefined,
    manifest: async () => ({ bytes, mediaType: imageType }),
    blob: async (wanted) => Readable.from([blobs.get(wanted.digest) ?? Buffer.alloc(0)]),
    close: async () => {},
  };
  return { digest, source };
}

test(`after a power cut the cache holds the old or the new bundle, never a torn one (${cuts} cuts)`, async (t) => {
  const versions = ["old", "new"].map((version) => ({ "manifest.yaml": Buffer.from(version), "data/kernel": kernel }));
  const [before, after] = versions.map(imageOf);
  assert.ok(before !== undefined && after !== undefined);
  const recorded = await temporaryDirectory(t);
  const name = "lab/ns/flasher:latest";
  const wanted = (source: Source) => ({ name, digest: undefined, open: async () => source });
  const away: Source = { ...after.source, resolve: () => Promise.reject(new AgentError("E_CONNECTION", "away")) };

  // The cache directory itself was made when the agent was installed.
  const recording = recordDisk(t, recorded);
  const cache = new BundleCache({ directory: recorded, log });
  (await cache.get(wanted(before.source))).release();
  const start = recording.length;
  await cache.get(wanted(after.source));
  // Then the old one goes, which is a good time to lose power, too.
  const { removed } = await cache.prune({ signal: AbortSignal.timeout(10_000) });
  assert.deepEqual(removed, [before.digest]);
  await cache.close();
  assert.ok(recording.length - start > 15);

  // A generator that gives the same cuts each time (Numerical Recipes).
  let state = 1;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
  const seen = new Map<string, number>();
  const memory = existsSync("/dev/shm") ? "/dev/shm" : undefined;
  const restored = join(await temporaryDirectory(t, memory), "cache");
  await mkdir(restored);
  for (let run = 0; run < cuts; run += 1) {
    const cut = start + Math.floor(random() * (recording.length - start + 1));
    recording.restore(restored, cut, random);
    // Another boot of the host, with another identity.
    const survivor = new BundleCache({ directory: restored, log, bootId: `boot ${run}` });
    const found = await survivor.get(wanted(away));
    const version = await readFile(join(found.directory, "manifest.yaml"), "utf8");
    assert.equal(found.digest, version === "old" ? before.digest : after.digest);
    assert.deepEqual(await readFile(join(found.directory, "data/kernel")), kernel);
    seen.set(version, (seen.get(version) ?? 0) + 1);
    if (run % 20 === 0) {
      const current = await survivor.get(wanted(after.source));
      assert.equal(current.digest, after.digest);
      assert.equal(await readFile(join(current.directory, "manifest.yaml"), "utf8"), "new");
    }
    await survivor.close();
  }
  assert.deepEqual([...seen.keys()].sort(), ["new", "old"]);
});
