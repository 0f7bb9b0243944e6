/** One cache for all processes of a host: shared downloads, killed pulls, full and read-only disks, limits. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, readdirSync, statSync } from "node:fs";
import { readFile, readdir, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import { LogBus } from "../../agent/driver/log.ts";
import { BundleCache, type BundleCacheOptions } from "../../bundles/cache/cache.ts";
import type { Digest } from "../../bundles/oci/digest.ts";
import { openRegistry } from "../../bundles/oci/registry.ts";
import { parseReference, type RegistryReference } from "../../bundles/oci/reference.ts";
import { temporaryDirectory } from "../sim/bundle.ts";
import { missingLoops, mountOn, smallFileSystem } from "../sim/loop.ts";
import { sha256, startFakeRegistry, type FakeRegistry } from "../sim/registry.ts";
import { eventually } from "../sim/rig.ts";

const MiB = 2 ** 20;

interface User {
  readonly child: ChildProcess;
  output(): string;
  /** Until all of its exporters have the bundle. */
  got(count: number): Promise<void>;
  /** Ends it as users do, and waits. */
  end(): Promise<void>;
}

/** Another process that uses a cache. */
function startUser(t: TestContext, directory: string, reference: string, exporters = 1): User {
  const words = ["--import", "tsx", "test/sim/cache-process.ts", directory, reference, String(exporters)];
  const child = spawn(process.execPath, words, { stdio: ["pipe", "pipe", "pipe"] });
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const ended = once(child, "exit");
  t.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  return {
    child,
    output: () => printed,
    got: (count) =>
      eventually(
        `${count} exporters have the bundle`,
        () => {
          if (child.exitCode !== null) throw new Error(`the process has ended:\n${printed}`);
          return printed.split("got sha256:").length - 1 === count;
        },
        60_000,
      ),
    end: async () => {
      child.stdin.end();
      await ended;
    },
  };
}

function openCache(t: TestContext, directory: string, options: Partial<BundleCacheOptions> = {}) {
  const logs = new LogBus();
  const warnings: string[] = [];
  logs.subscribe(({ severity, message }) => severity === "WARNING" && warnings.push(message));
  const log = logs.logger({ source: "driver", logger: "test" });
  const cache = new BundleCache({ directory, log, ...options });
  t.after(() => cache.close());
  return { cache, warnings };
}

function wantedFrom(registry: FakeRegistry, tag: string) {
  const name = `${registry.host}/ns/repo:${tag}`;
  const reference = parseReference(name) as RegistryReference;
  const open = async () =>
    openRegistry(reference, { plainHttp: [registry.host], ca: undefined, credential: undefined });
  return { name, digest: undefined, open };
}

const blobRequests = ({ requests }: FakeRegistry) => requests.filter(({ url }) => url.includes("/blobs/"));
const neverAborted = new AbortController().signal;

test("two processes with ten exporters that want one bundle of 200 MB download it once", async (t) => {
  const registry = await startFakeRegistry(t);
  const content = Buffer.alloc(200 * MiB, randomBytes(MiB));
  registry.put("v1", [
    { title: "manifest.yaml", content: Buffer.from("x") },
    { title: "data/image", content },
  ]);
  const directory = await temporaryDirectory(t);
  const users = [1, 2].map(() => startUser(t, directory, `${registry.host}/ns/repo:v1`, 10));
  await Promise.all(users.map((user) => user.got(10)));
  assert.deepEqual(
    blobRequests(registry)
      .map(({ url }) => url.split("/").at(-1))
      .sort(),
    [sha256(content), sha256("x")].sort(),
  );
  const { cache } = openCache(t, directory);
  const [listed, ...others] = await cache.list();
  assert.deepEqual(others, []);
  assert.equal(listed?.isInUse, true);
  assert.ok(listed.sizeBytes < 200 * MiB + 10_000, "the files are the blobs");
  assert.deepEqual((await cache.prune({ signal: neverAborted })).removed, []);
  await users[0]?.end();
  assert.deepEqual((await cache.prune({ signal: neverAborted })).removed, []);
  await users[1]?.end();
  const { removed, freedBytes } = await cache.prune({ signal: neverAborted });
  assert.deepEqual(removed, [listed.digest]);
  assert.ok(freedBytes > 200 * MiB);
  assert.deepEqual(await readdir(join(directory, "blobs/sha256")), []);
});

/** A layer that the registry gives out piece by piece, as `gate` allows, from any offset. */
function slowly(registry: FakeRegistry, content: Buffer): { given: number[]; letThrough: (bytes: number) => void } {
  let allowed = 0;
  const given: number[] = [];
  const waiting = new Set<() => void>();
  registry.answer = (request, response) => {
    if (!request.url?.includes(sha256(content))) return false;
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    given.push(from);
    response.writeHead(from > 0 ? 206 : 200, {
      "content-length": content.length - from,
      ...(from > 0 && { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` }),
    });
    let at = from;
    const go = () => {
      if (allowed > at) response.write(content.subarray(at, (at = Math.min(allowed, content.length))));
      if (at >= content.length) response.end();
    };
    waiting.add(go);
    response.once("close", () => waiting.delete(go));
    go();
    return true;
  };
  return {
    given,
    letThrough: (bytes) => {
      allowed = bytes;
      for (const go of waiting) go();
    },
  };
}

test("a pull that is killed is gone on with by who waits for it, from where it was", async (t) => {
  const registry = await startFakeRegistry(t);
  const content = randomBytes(8 * MiB);
  registry.put("v1", [{ title: "image", content }]);
  const { given, letThrough } = slowly(registry, content);
  const directory = await temporaryDirectory(t);
  const reference = `${registry.host}/ns/repo:v1`;
  const first = startUser(t, directory, reference);
  await eventually("the download has begun", () => given.length === 1, 20_000);
  const second = startUser(t, directory, reference);
  await eventually("the second one waits", () => /waiting for .*another pull fetches/.test(second.output()), 20_000);
  letThrough(4 * MiB);
  const part = join(directory, "incoming", `blob-${sha256(content).replace(":", "-")}`);
  await eventually("half of it is on the disk", () => existsSync(part) && statSync(part).size === 4 * MiB, 20_000);
  first.child.kill("SIGKILL");
  await eventually("the second one goes on", () => given.length === 2, 20_000);
  assert.deepEqual(given, [0, 4 * MiB]);
  letThrough(content.length);
  await second.got(1);
  const [, image = ""] = / in (.*)/.exec(second.output()) ?? [];
  assert.ok((await readFile(join(image, "image"))).equals(content));
  assert.deepEqual(await readdir(join(directory, "incoming")), []);
});

test("a part that is not what it was, as after a power cut, is fetched again", async (t) => {
  const registry = await startFakeRegistry(t);
  const content = randomBytes(MiB);
  registry.put("v1", [{ title: "image", content }]);
  const directory = await temporaryDirectory(t);
  const { cache } = openCache(t, directory);
  const part = join(directory, "incoming", `blob-${sha256(content).replace(":", "-")}`);
  for (const rubbish of [Buffer.alloc(1000), Buffer.alloc(MiB), Buffer.alloc(MiB + 1), content.subarray(0, 1000)]) {
    const { digest } = await get(cache, wantedFrom(registry, "v1"));
    await cache.prune({ signal: neverAborted });
    await writeFile(part, rubbish);
    const bundle = await cache.get(wantedFrom(registry, "v1"));
    assert.ok((await readFile(join(bundle.directory, "image"))).equals(content));
    assert.equal(bundle.digest, digest);
    bundle.release();
  }
});

async function get(cache: BundleCache, wanted: Parameters<BundleCache["get"]>[0]) {
  const bundle = await cache.get(wanted);
  bundle.release();
  return bundle;
}

test("the limit: bundles not used for longest go, never those in use or pinned; too big is refused before the download", async (t) => {
  const registry = await startFakeRegistry(t);
  const directory = await temporaryDirectory(t);
  const { cache } = openCache(t, directory, { limitBytes: 2.5 * MiB });
  for (const tag of ["a", "b", "c", "d"]) registry.put(tag, [{ title: "image", content: Buffer.alloc(MiB, tag) }]);
  registry.put("big", [{ title: "image", content: Buffer.alloc(3 * MiB) }]);
  const tags = async () => (await cache.list()).map(({ references }) => references[0]?.name.at(-1)).sort();
  const ago = async (directory: string, seconds: number) => {
    const then = new Date(Date.now() - seconds * 1000);
    await utimes(join(directory, "../bundle.json"), then, then);
  };
  const a = await get(cache, wantedFrom(registry, "a"));
  const b = await get(cache, wantedFrom(registry, "b"));
  await ago(a.directory, 10);
  await ago(b.directory, 20);
  await get(cache, wantedFrom(registry, "c"));
  assert.deepEqual(await tags(), ["a", "c"]);
  assert.ok((await diskUse(directory)) <= 2.5 * MiB);

  await ago(a.directory, 30);
  await cache.pin(a.digest);
  const used = await cache.get(wantedFrom(registry, "b"));
  assert.deepEqual(await tags(), ["a", "b"]);
  registry.requests.length = 0;
  await assert.rejects(cache.get(wantedFrom(registry, "d")), { code: "E_LIMIT", message: /are pinned or in use/ });
  await assert.rejects(cache.get(wantedFrom(registry, "big")), { code: "E_LIMIT" });
  assert.deepEqual(blobRequests(registry), []);
  assert.deepEqual(await tags(), ["a", "b"]);
  used.release();
  await get(cache, wantedFrom(registry, "d"));
  assert.deepEqual(await tags(), ["a", "d"]);
  await cache.unpin(a.digest);
  await cache.prune({ signal: neverAborted, untilBytes: 1.5 * MiB });
  assert.deepEqual(await tags(), ["d"]);
});

/** Bytes of the files below a directory, each once. */
async function diskUse(directory: string): Promise<number> {
  const sizes = new Map<number, number>();
  for (const name of await readdir(directory, { recursive: true })) {
    const { ino, size, nlink } = await stat(join(directory, name));
    if (nlink > 0 && !statSync(join(directory, name)).isDirectory()) sizes.set(ino, size);
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

test("verify names what is damaged; after a start of the host all is read before it is used", async (t) => {
  const registry = await startFakeRegistry(t);
  const directory = await temporaryDirectory(t);
  registry.put("v1", [
    { title: "data/kernel", content: randomBytes(3000) },
    { title: "data/other", content: randomBytes(3000) },
  ]);
  const { cache } = openCache(t, directory, { bootId: "one" });
  const { digest, directory: files } = await get(cache, wantedFrom(registry, "v1"));
  assert.deepEqual(await cache.verify(digest), []);
  // A bit that rots leaves no trace in what the file system says of a file.
  const kernel = join(files, "data/kernel");
  await utimes(kernel, 1_700_000_000, 1_700_000_000);
  await get(openCache(t, directory, { bootId: "one" }).cache, wantedFrom(registry, "v1"));
  await writeFile(kernel, randomBytes(3000));
  await utimes(kernel, 1_700_000_000, 1_700_000_000);
  const damages = await cache.verify(digest);
  assert.deepEqual(
    damages.map(({ name, error }) => `${error.code} ${name}`),
    ["E_DIGEST data/kernel", `E_DIGEST ${damages[1]?.name}`],
  );
  registry.requests.length = 0;
  await get(openCache(t, directory, { bootId: "one" }).cache, wantedFrom(registry, "v1"));
  assert.deepEqual(blobRequests(registry), [], "this host has not started since");
  const { cache: later, warnings } = openCache(t, directory, { bootId: "two" });
  await get(later, wantedFrom(registry, "v1"));
  assert.match(warnings.join(), /removing the damaged cached bundle .*data\/kernel is not what its digest says/);
  assert.equal(blobRequests(registry).length, 1, "only the damaged blob is fetched");
  assert.deepEqual(await later.verify(digest), []);
  await assert.rejects(later.verify(sha256("none") as Digest), {
    code: "E_INVALID",
    message: /not in the bundle cache/,
  });
});

test("what was kept beside a bundle is there when nobody can be asked, and refused bundles are not used", async (t) => {
  const registry = await startFakeRegistry(t);
  const directory = await temporaryDirectory(t);
  const payload = Buffer.from("signed");
  registry.put("v1", [{ title: "image", content: Buffer.from("image") }]);
  const wantedPayload = { digest: sha256(payload) as Digest, size: payload.length };
  const beside = registry.put("v1.sig", [{ title: "payload", content: payload }]) as Digest;
  const unsigned = wantedFrom(registry, "v1");
  const { cache } = openCache(t, directory);
  await get(cache, unsigned);
  const asked: string[] = [];
  const signed = {
    ...unsigned,
    accept: async (source: Parameters<NonNullable<Parameters<BundleCache["get"]>[0]["accept"]>>[0]) => {
      const found = await source.tagged("v1.sig", neverAborted);
      asked.push(found ?? "none");
      if (found === undefined) throw new Error("not signed");
      const stream = await source.blob(wantedPayload, { signal: neverAborted });
      assert.deepEqual(await buffer(stream), payload);
    },
    alsoKeep: async () => [{ tag: "v1.sig", digest: beside }],
  };
  await get(cache, signed);
  assert.deepEqual(asked, ["none", beside]);
  await registry.stop();
  await get(cache, signed);
  assert.deepEqual(asked, ["none", beside, beside]);
  const refused = { ...unsigned, accept: () => Promise.reject(new Error("nobody trusts it")) };
  await assert.rejects(cache.get(refused), { message: "nobody trusts it" });
  assert.equal((await cache.list())[0]?.isInUse, false);
});

test("a full disk is told, nothing stays of the pull, and the cache works on", { skip: missingLoops }, async (t) => {
  const registry = await startFakeRegistry(t);
  const directory = join(smallFileSystem(t, 4 * MiB), "cache");
  const { cache } = openCache(t, directory);
  registry.put("small", [{ title: "image", content: randomBytes(MiB) }]);
  registry.put("large", [
    { title: "first", content: randomBytes(MiB) },
    { title: "second", content: randomBytes(5 * MiB) },
  ]);
  await get(cache, wantedFrom(registry, "small"));
  const before = await diskUse(directory);
  await assert.rejects(cache.get(wantedFrom(registry, "large")), {
    code: "E_IO",
    message: /:large cannot be brought into .*No space left on device/i,
  });
  assert.ok((await diskUse(directory)) <= before + 4096, readdirSync(directory, { recursive: true }).join());
  await get(cache, wantedFrom(registry, "small"));
});

test("a cache on a read-only medium serves what it holds", { skip: missingLoops }, async (t) => {
  const registry = await startFakeRegistry(t);
  const directory = await temporaryDirectory(t);
  registry.put("v1", [{ title: "image", content: Buffer.from("image") }]);
  registry.put("v2", [{ title: "image", content: Buffer.from("other") }]);
  const first = openCache(t, directory).cache;
  await get(first, wantedFrom(registry, "v1"));
  await first.close();
  const medium = mountOn(t, directory, ["--bind", "-o", "ro"]);
  const { cache, warnings } = openCache(t, medium, { bootId: "another host" });
  const bundle = await cache.get(wantedFrom(registry, "v1"));
  assert.equal(await readFile(join(bundle.directory, "image"), "utf8"), "image");
  assert.match(warnings.join(), /cannot remember/);
  assert.equal((await cache.list()).length, 1);
  await assert.rejects(cache.get(wantedFrom(registry, "v2")), { code: "E_IO", message: /Read-only file system/i });
  await registry.stop();
  await get(cache, wantedFrom(registry, "v1"));
});

test("whenever a pull is killed, the next one is whole and leaves nothing of it", async (t) => {
  const registry = await startFakeRegistry(t);
  const content = randomBytes(2 * MiB);
  registry.put("v1", [
    { title: "manifest.yaml", content: Buffer.from("x") },
    { title: "image", content },
  ]);
  const reference = `${registry.host}/ns/repo:v1`;
  // At each request, then at moments after the last one: what is done then takes some milliseconds.
  const moments = [1, 2, 3, 4].map((request) => ({ request, afterMs: 0 }));
  for (const afterMs of [5, 10, 15, 20, 30, 45, 60]) moments.push({ request: 4, afterMs });
  const found = new Set<string>();
  for (const { request, afterMs } of moments) {
    const directory = await temporaryDirectory(t);
    const user = startUser(t, directory, reference);
    const ended = once(user.child, "exit");
    registry.requests.length = 0;
    registry.answer = () => {
      if (registry.requests.length === request) setTimeout(() => user.child.kill("SIGKILL"), afterMs);
      return false;
    };
    await ended;
    registry.answer = () => false;
    found.add((await readdir(directory, { recursive: true })).map((name) => name.split("/")[0]).join());
    const { cache } = openCache(t, directory);
    const bundle = await cache.get(wantedFrom(registry, "v1"));
    assert.ok((await readFile(join(bundle.directory, "image"))).equals(content));
    assert.deepEqual(await cache.verify(bundle.digest), []);
    bundle.release();
    await cache.prune({ signal: neverAborted });
    for (const left of ["incoming", "bundles", "references", "blobs/sha256"]) {
      assert.deepEqual(await readdir(join(directory, left)), [], `${left} after ${request}, ${afterMs} ms`);
    }
  }
  assert.ok(found.size >= 3, "the kills hit different states");
});

test("without locks between processes the cache works for one, and says so once", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", [{ title: "image", content: Buffer.from("image") }]);
  const directory = await temporaryDirectory(t);
  const logs = new LogBus();
  const warnings: string[] = [];
  logs.subscribe(({ severity, message }) => severity === "WARNING" && warnings.push(message));
  const log = logs.logger({ source: "driver", logger: "test" });
  const loadTryLock = () => Promise.reject(new Error("no native code here"));
  const cache = new BundleCache({ directory, log, loadTryLock });
  t.after(() => cache.close());
  const bundles = await Promise.all([1, 2, 3].map(() => cache.get(wantedFrom(registry, "v1"))));
  assert.equal(blobRequests(registry).length, 1);
  assert.deepEqual((await cache.prune({ signal: neverAborted })).removed, []);
  for (const bundle of bundles) bundle.release();
  assert.equal((await cache.prune({ signal: neverAborted })).removed.length, 1);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? "", /not shared with other processes.*no native code here/);
});
