import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile, readdir, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { createServer, type ServerResponse } from "node:http";
import { connect as connectTo, type AddressInfo } from "node:net";
import { join } from "node:path";
import { pipeline } from "node:stream";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { LogBus } from "../../agent/driver/log.ts";
import { fileOf, openBundle, type Bundle } from "../../bundles/bundle.ts";
import { BundleCache } from "../../bundles/cache/cache.ts";
import { filesBelow, pushBundle } from "../../bundles/oci/push.ts";
import { parseReference, type RegistryReference } from "../../bundles/oci/reference.ts";
import { bundleFiles, temporaryDirectory, writeFiles } from "../sim/bundle.ts";
import {
  indexType,
  noRealRegistry,
  sha256,
  startFakeRegistry,
  startRealRegistry,
  type FakeLayer,
} from "../sim/registry.ts";
import { tarOf } from "../sim/tar.ts";

const layers: FakeLayer[] = Object.entries(bundleFiles).map(([title, content]) => ({ title, content }));
const tarLayer = "application/vnd.oci.image.layer.v1.tar+gzip";

interface Station {
  readonly directory: string;
  readonly warnings: string[];
  pull: (
    reference: string,
    options?: { cache?: BundleCache; plainHttp?: string[]; credentialsFor?: string; registryCa?: string },
  ) => Promise<Bundle>;
  newCache: (options?: { mostBytes?: number; limitBytes?: number }) => BundleCache;
}

/** A cache directory with its user; every `newCache` stands for a new process. */
async function station(t: TestContext, host = "127.0.0.1"): Promise<Station> {
  const directory = await temporaryDirectory(t);
  const logs = new LogBus();
  const warnings: string[] = [];
  logs.subscribe(({ severity, message }) => severity === "WARNING" && warnings.push(message));
  const log = logs.logger({ source: "driver", logger: "test" });
  const newCache: Station["newCache"] = (options) => {
    const cache = new BundleCache({ directory, log, ...options });
    t.after(() => cache.close());
    return cache;
  };
  return {
    directory,
    warnings,
    newCache,
    pull: (reference, { cache = newCache(), plainHttp = [host], credentialsFor, registryCa } = {}) =>
      openBundle(parseReference(reference), {
        cache: async () => cache,
        plainHttp,
        registryCa,
        environmentCredentialsFor: credentialsFor,
      }),
  };
}

/** Everything below the cache directory that is a bundle, or was to become one. */
async function remains(directory: string): Promise<string[]> {
  const names = await readdir(directory, { recursive: true });
  const always = ["incoming", "bundles", "references", "blobs", "blobs/sha256", "locks", "locks/store"];
  return names.filter((name) => !always.includes(name));
}

async function assertWhole(bundle: Bundle, files: Record<string, Uint8Array> = bundleFiles): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    assert.deepEqual(await readFile(await fileOf(bundle, path)), Buffer.from(content), path);
  }
}

test("a bundle goes to Debian's registry and comes back", { skip: noRealRegistry }, async (t) => {
  const { host, stop } = await startRealRegistry(t);
  const reference = `${host}/jumpstarter-dev/flasher:new`;
  const source = await writeFiles(t, bundleFiles);
  const signal = AbortSignal.timeout(60_000);
  const push = async () =>
    pushBundle(parseReference(reference) as RegistryReference, await filesBelow(source), { plainHttp: [host], signal });
  const digest = await push();
  const { pull, warnings, directory } = await station(t);
  const bundle = await pull(reference, { plainHttp: [host] });
  assert.equal(bundle.digest, digest);
  await assertWhole(bundle);

  await t.test("a pin to its digest is the same bundle, a pin to another is refused", async () => {
    const repository = `${host}/jumpstarter-dev/flasher`;
    assert.equal((await pull(`${repository}:gone@${digest}`)).digest, digest);
    await assert.rejects(pull(`${repository}@${sha256("other")}`), {
      code: "E_INVALID",
      message: /HTTP 404 MANIFEST_UNKNOWN/,
    });
    await assert.rejects(pull(`${repository}:absent`), { code: "E_INVALID", message: /refused .*:absent: HTTP 404/ });
  });

  await t.test("a moved tag is noticed, and files that did not change are shared", async () => {
    await writeFile(join(source, "manifest.yaml"), "changed");
    const moved = await push();
    assert.notEqual(moved, digest);
    const next = await pull(reference);
    assert.equal(next.digest, moved);
    assert.equal(await readFile(await fileOf(next, "manifest.yaml"), "utf8"), "changed");
    const [before, after] = await Promise.all(
      [bundle, next].map(async (one) => stat(await fileOf(one, "data/kernel"))),
    );
    assert.equal(after?.ino, before?.ino);
  });

  await t.test("without the registry the last known bundle is used, with a warning that says how old", async () => {
    await stop();
    assert.equal((await pull(reference)).digest === digest, false);
    assert.match(
      warnings.join("\n"),
      /cannot be reached: ECONNREFUSED; using sha256:\S+, which .*:new was when last seen 0 min ago/,
    );
    await assert.rejects(pull(`${host}/jumpstarter-dev/flasher:other`), { code: "E_CONNECTION" });
    assert.equal((await pull(`${host}/jumpstarter-dev/flasher@${digest}`)).digest, digest);
    assert.deepEqual(await readdir(join(directory, "incoming")), []);
  });
});

test("an unchanged tag costs one request; a pinned bundle that is here costs none", async (t) => {
  const registry = await startFakeRegistry(t);
  const digest = registry.put("v1", layers);
  const { pull } = await station(t);
  await assertWhole(await pull(`${registry.host}/ns/repo:v1`));
  registry.requests.length = 0;
  await assertWhole(await pull(`${registry.host}/ns/repo:v1`));
  assert.deepEqual(
    registry.requests.map(({ method, url }) => `${method} ${url}`),
    ["HEAD /v2/ns/repo/manifests/v1"],
  );
  registry.requests.length = 0;
  await pull(`${registry.host}/ns/repo@${digest}`);
  assert.deepEqual(registry.requests, []);
});

test("many who ask for one bundle at once share one download", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  const { pull, newCache } = await station(t);
  const cache = newCache();
  const bundles = await Promise.all(Array.from({ length: 8 }, () => pull(`${registry.host}/ns/repo:v1`, { cache })));
  assert.equal(new Set(bundles.map(({ directory }) => directory)).size, 1);
  assert.equal(registry.requests.filter(({ url }) => url.includes("/blobs/")).length, layers.length);
});

test("two processes that pull one bundle into one directory both get it whole", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  const { pull, directory } = await station(t);
  const bundles = await Promise.all([1, 2, 3].map(() => pull(`${registry.host}/ns/repo:v1`)));
  for (const bundle of bundles) await assertWhole(bundle);
  assert.equal((await readdir(join(directory, "bundles"))).length, 1);
  assert.deepEqual(await readdir(join(directory, "incoming")), []);
});

test("an index leads to its bundle; archives are unpacked beside the files", async (t) => {
  const registry = await startFakeRegistry(t);
  const archive = gzipSync(
    tarOf([
      { name: "./", type: "5" },
      { name: "./dtbs/", type: "5" },
      { name: "./dtbs/a.dtb", content: "tree" },
    ]),
  );
  const image = registry.put("image", [...layers, { title: "data/archive", mediaType: tarLayer, content: archive }]);
  const other = registry.put("other", [{ title: "x", content: Buffer.from("x") }]);
  const entry = (digest: string, artifactType?: string) => ({ mediaType: "x", digest, size: 1, artifactType });
  const manifests = [entry(other), entry(image, "application/vnd.oci.bundle.v1")];
  const index = registry.putManifest("v1", { schemaVersion: 2, manifests }, indexType);
  const { pull } = await station(t);
  const bundle = await pull(`${registry.host}/ns/repo:v1`);
  assert.equal(bundle.digest, index);
  await assertWhole(bundle, { ...bundleFiles, "data/dtbs/a.dtb": Buffer.from("tree") });
});

test("an image layout on disk is read like a registry", async (t) => {
  const registry = await startFakeRegistry(t);
  const digest = registry.put("v1", layers);
  const manifest = registry.manifests.get(digest);
  const entry = { mediaType: manifest?.mediaType, digest, size: manifest?.bytes.length };
  const tagged = { ...entry, annotations: { "org.opencontainers.image.ref.name": "v1" } };
  const blobs = [...registry.blobs, [digest, manifest?.bytes ?? ""] as const];
  const layout = await writeFiles(t, {
    "index.json": JSON.stringify({ schemaVersion: 2, manifests: [tagged] }),
    ...Object.fromEntries(blobs.map(([name, bytes]) => [`blobs/${name.replace(":", "/")}`, bytes])),
  });
  const { pull } = await station(t);
  for (const reference of ["", ":v1", `@${digest}`]) {
    const bundle = await pull(`oci-layout:${layout}${reference}`);
    assert.equal(bundle.digest, digest);
    await assertWhole(bundle);
  }
  await assert.rejects(pull(`oci-layout:${layout}:v2`), { code: "E_INVALID", message: /0 images for the tag v2/ });
  await assert.rejects(pull(`oci-layout:${layout}/none`), { code: "E_INVALID", message: /no OCI image layout/ });
});

test("a directory is used as it is; links may not lead out of it", async (t) => {
  const directory = await writeFiles(t, bundleFiles);
  const { symlink } = await import("node:fs/promises");
  await symlink("manifest.yaml", join(directory, "inside.yaml"));
  await symlink("/etc/hostname", join(directory, "outside.yaml"));
  await symlink("loop", join(directory, "loop"));
  const bundle = await (await station(t)).pull(`file:${directory}`);
  assert.equal(bundle.digest, undefined);
  await assertWhole(bundle, { ...bundleFiles, "inside.yaml": bundleFiles["manifest.yaml"] ?? Buffer.alloc(0) });
  for (const path of ["outside.yaml", "loop", "data", "absent", "manifest.yaml/x"]) {
    await assert.rejects(fileOf(bundle, path), { code: "E_INVALID", message: new RegExp(`has no file ${path}$`) });
  }
});

const content = Buffer.from("content");
const flipped = Buffer.from("cOntent");
/** What is wrong with an image → its layers, and what the refusal says. */
const refusedImages: Record<string, [FakeLayer[], RegExp]> = {
  "a flipped bit": [
    [{ title: "kernel", content: flipped, digest: sha256(content) }],
    /E_DIGEST .*kernel is not what its digest says/,
  ],
  "a body that is too short": [
    [{ title: "kernel", content: content.subarray(1), digest: sha256(content), size: 7 }],
    /E_DIGEST .*kernel ends after 6 of 7/,
  ],
  "a body that is too long": [
    [{ title: "kernel", content: Buffer.concat([content, content]), digest: sha256(content), size: 7 }],
    /E_DIGEST .*kernel is longer than the 7/,
  ],
  "a size that is wrong": [[{ title: "kernel", content, size: 6 }], /E_DIGEST .*kernel is longer than the 6/],
  "a title that leads out": [[{ title: "../kernel", content }], /E_INVALID .*titled "\.\.\/kernel"/],
  "an absolute title": [[{ title: "/etc/cron.d/x", content }], /E_INVALID .*titled "\/etc\/cron\.d\/x"/],
  "the same title twice": [
    [
      { title: "a", content },
      { title: "./a", content: flipped },
    ],
    /E_INVALID .*two layers titled "a"/,
  ],
  "a file that is also a directory": [
    [
      { title: "a", content },
      { title: "a/b", content },
    ],
    /E_INVALID "a\/b" is a file and a directory/,
  ],
  "a directory that is also a file": [
    [
      { title: "a/b", content },
      { title: "a", content },
    ],
    /E_INVALID "a" is a file and a directory/,
  ],
  "an archive that is no gzip": [
    [{ title: "a", mediaType: tarLayer, content }],
    /E_INVALID .* is not gzip, or damaged/,
  ],
  "an archive that is no tar": [
    [{ title: "a", mediaType: tarLayer, content: gzipSync(Buffer.alloc(1024, 7)) }],
    /E_INVALID .*not a tar archive/,
  ],
  "a bomb": [
    [
      {
        title: "a",
        mediaType: tarLayer,
        content: gzipSync(tarOf([{ name: "zeros", size: 200 * 2 ** 20 }]), { level: 9 }),
      },
    ],
    /E_LIMIT .*unpacks to more than/,
  ],
};
for (const [what, [evil, refusal]] of Object.entries(refusedImages)) {
  test(`${what} is refused by name, with nothing left behind`, async (t) => {
    const registry = await startFakeRegistry(t);
    registry.put("v1", [{ title: "good", content: Buffer.from("good") }, ...evil]);
    const { pull, directory } = await station(t);
    const error = await pull(`${registry.host}/ns/repo:v1`).catch((error: { code: string; message: string }) => error);
    assert.match(`${"code" in error ? error.code : ""} ${"message" in error ? error.message : "accepted"}`, refusal);
    assert.deepEqual(await remains(directory), []);
  });
}

test("an archive that would write outside the bundle, or more than files, is refused", async (t) => {
  const registry = await startFakeRegistry(t);
  const { pull, directory } = await station(t);
  const names = ["../x", "/etc/x", "a/../../x", "..", "a/..", "./../x", "a\\..\\..\\x", "a\nb", "x/y/../../../z"];
  const corpus = [
    ...names.map((name) => ({ name, content: "evil" })),
    ...names.map((name) => ({ name: "short", pax: { path: name }, content: "evil" })),
    ...names.map((name) => ({ name: "short", longName: name, content: "evil" })),
    ...["1", "2", "3", "4", "6", "S", "V"].map((type) => ({ name: "link", type, linkName: "/etc/passwd" })),
    { name: "dir", type: "5", content: "with content" },
    { name: "file", pax: { size: "9".repeat(15) }, content: "x" },
  ];
  for (const [index, entry] of corpus.entries()) {
    const content = gzipSync(tarOf([{ name: "first", content: "x" }, entry]));
    registry.put(`v${index}`, [{ title: "data/archive", mediaType: tarLayer, content }]);
    await assert.rejects(
      pull(`${registry.host}/ns/repo:v${index}`),
      { name: "AgentError" },
      JSON.stringify(entry).slice(0, 200),
    );
    assert.deepEqual(await remains(directory), [], JSON.stringify(entry).slice(0, 200));
  }
});

test("a manifest that is not the one promised is refused", async (t) => {
  const registry = await startFakeRegistry(t);
  const { pull, directory } = await station(t);
  const digest = registry.put("v1", layers);
  const manifest = registry.manifests.get(digest);
  assert.ok(manifest);
  const [other] = [registry.put("other", [{ title: "x", content }])];
  const forged = registry.manifests.get(other);
  assert.ok(forged);
  // The tag moved and the registry serves the new content even for the pin.
  registry.manifests.set(digest, forged);
  await assert.rejects(pull(`${registry.host}/ns/repo:v1@${digest}`), {
    code: "E_DIGEST",
    message: /not what its digest says/,
  });
  registry.manifests.set(digest, { ...manifest, mediaType: "text/html" });
  await assert.rejects(pull(`${registry.host}/ns/repo@${digest}`), { code: "E_INVALID", message: /media type/ });
  registry.manifests.set(digest, { ...manifest, bytes: Buffer.alloc(5 * 2 ** 20) });
  await assert.rejects(pull(`${registry.host}/ns/repo@${digest}`), { code: "E_LIMIT" });
  assert.deepEqual(await remains(directory), []);
});

test("a bundle larger than allowed is refused before anything is fetched", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  const { pull, newCache, directory } = await station(t);
  await assert.rejects(pull(`${registry.host}/ns/repo:v1`, { cache: newCache({ mostBytes: 4000 }) }), {
    code: "E_LIMIT",
  });
  assert.equal(registry.requests.filter(({ url }) => url.includes("/blobs/")).length, 0);
  assert.deepEqual(await remains(directory), []);
});

test("a connection cut in the middle of a layer is tried again", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  let cuts = 0;
  registry.answer = (request, response) => {
    if (!request.url?.includes(`/blobs/${sha256(bundleFiles["data/kernel"] ?? "")}`) || cuts === 2) return false;
    cuts += 1;
    response.writeHead(200, { "content-length": "1024" }).write(Buffer.alloc(100));
    setTimeout(() => response.destroy(), 20);
    return true;
  };
  await assertWhole(await (await station(t)).pull(`${registry.host}/ns/repo:v1`));
  assert.equal(cuts, 2);
});

const challenge = (response: ServerResponse, value: string) => {
  response
    .writeHead(401, { "www-authenticate": value })
    .end(JSON.stringify({ errors: [{ code: "UNAUTHORIZED", message: "s3cret" }] }));
  return true;
};

test("a token is asked for with the login, used, and renewed when it has expired", async (t) => {
  const registry = await startFakeRegistry(t);
  const { pull } = await station(t);
  registry.put("v1", layers);
  let issued = 0;
  let left = 0;
  registry.answer = (request, response) => {
    if (request.url?.startsWith("/token")) {
      issued += 1;
      left = 3;
      response.end(JSON.stringify({ token: `token-${issued}` }));
      return true;
    }
    if (request.headers.authorization !== `Bearer token-${issued}` || left-- === 0) {
      return challenge(
        response,
        `Bearer realm="http://${registry.host}/token",service="registry",scope="repository:ns/repo:pull"`,
      );
    }
    return false;
  };
  withEnvironment(t, { OCI_USERNAME: "user", OCI_PASSWORD: "s3cret" });
  await assertWhole(await pull(`${registry.host}/ns/repo:v1`, { credentialsFor: registry.host }));
  assert.ok(issued >= 2);
  const asked = registry.requests.filter(({ url }) => url.startsWith("/token"));
  assert.equal(asked[0]?.url, "/token?service=registry&scope=repository%3Ans%2Frepo%3Apull");
  assert.equal(asked[0]?.authorization, `Basic ${Buffer.from("user:s3cret").toString("base64")}`);
});

test("a refused login says so without the secret, and is not sent to a registry it was not meant for", async (t) => {
  const registry = await startFakeRegistry(t);
  const { pull } = await station(t);
  registry.answer = (_request, response) => challenge(response, 'Basic realm="x"');
  withEnvironment(t, { OCI_USERNAME: "user", OCI_PASSWORD: "s3cret" });
  const reference = `${registry.host}/ns/repo:v1`;
  for (const credentialsFor of ["quay.io", registry.host]) {
    await assert.rejects(pull(reference, { credentialsFor }), (error: Error & { code: string }) => {
      assert.equal(error.code, "E_INVALID");
      assert.match(error.message, /HTTP 401 UNAUTHORIZED$/);
      assert.doesNotMatch(error.message + error.stack, /s3cret|user/);
      return true;
    });
    const sent = registry.requests.some(({ authorization }) => authorization !== undefined);
    assert.equal(sent, credentialsFor === registry.host);
  }
});

test("redirects are followed without credentials for other hosts, and not for ever", async (t) => {
  const [registry, storage] = [await startFakeRegistry(t), await startFakeRegistry(t)];
  const { pull } = await station(t);
  registry.put("v1", layers);
  withEnvironment(t, { OCI_USERNAME: "user", OCI_PASSWORD: "s3cret" });
  const options = { plainHttp: [registry.host, storage.host], credentialsFor: registry.host };
  const signature = "?X-Sig=a%2Fb%20c";
  storage.answer = (request, response) => {
    response.end(registry.blobs.get((request.url ?? "").slice(1).split("?")[0] ?? ""));
    return true;
  };
  registry.answer = (request, response) => {
    if (request.headers.authorization === undefined) return challenge(response, "Basic");
    const [, digest] = /\/blobs\/(.*)/.exec(request.url ?? "") ?? [];
    if (digest === undefined) return false;
    response.writeHead(307, { location: `http://${storage.host}/${digest}${signature}` }).end();
    return true;
  };
  await assertWhole(await pull(`${registry.host}/ns/repo:v1`, options));
  assert.equal(storage.requests.length, layers.length);
  for (const { authorization, url } of storage.requests) {
    assert.equal(authorization, undefined);
    assert.ok(url.endsWith(signature));
  }

  await t.test("to a host that may not be spoken to without TLS", async () => {
    const fresh = (await station(t)).pull(`${registry.host}/ns/repo:v1`, { ...options, plainHttp: [registry.host] });
    await assert.rejects(fresh, { code: "E_INVALID", message: /may not be spoken to without TLS/ });
  });
  await t.test("in a circle", async () => {
    registry.answer = (request, response) => {
      response.writeHead(302, { location: request.url }).end();
      return true;
    };
    await assert.rejects((await station(t)).pull(`${registry.host}/ns/repo:v1`, options), {
      code: "E_INVALID",
      message: /redirects too often/,
    });
  });
});

test("a registry is spoken to without TLS only if it is listed", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  const { pull } = await station(t);
  await assert.rejects(pull(`${registry.host}/ns/repo:v1`, { plainHttp: ["elsewhere:5000"] }), {
    code: "E_CONNECTION",
  });
  assert.deepEqual(registry.requests, []);
});

test("a registry in trouble is like one that is away; one that refuses is not", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  const { pull, warnings } = await station(t);
  const reference = `${registry.host}/ns/repo:v1`;
  await pull(reference);
  let status = 503;
  registry.answer = (_request, response) => response.writeHead(status).end() !== undefined;
  await assertWhole(await pull(reference));
  assert.match(warnings.join(), /HTTP 503; using/);
  for (status of [401, 403, 404]) await assert.rejects(pull(reference), { code: "E_INVALID" });
});

test("a damaged bundle in the cache is found before its first use, and pulled again", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  const { pull, warnings, directory } = await station(t);
  const reference = `${registry.host}/ns/repo:v1`;
  const { directory: files } = await pull(reference);
  const damages: (() => Promise<unknown>)[] = [
    () => writeFile(join(files, "data/kernel"), Buffer.alloc(1024, 1)),
    () => truncate(join(files, "data/kernel"), 1000),
    () => rm(join(files, "manifest.yaml")),
    () => truncate(join(files, "../bundle.json"), 30),
    () => rm(join(files, "../bundle.json")),
    () => rm(files, { recursive: true }),
    () => rm(join(files, "data/kernel")).then(() => mkdir(join(files, "data/kernel"))),
  ];
  for (const damage of damages) {
    await damage();
    warnings.length = 0;
    await assertWhole(await pull(reference));
    assert.match(warnings.join(), /removing the damaged cached bundle/);
  }
  assert.deepEqual(await readdir(join(directory, "incoming")), []);

  await t.test("without a registry a damaged bundle is not used", async () => {
    await writeFile(join(files, "data/kernel"), Buffer.alloc(1024, 1));
    await registry.stop();
    await assert.rejects(pull(reference), { code: "E_CONNECTION" });
    assert.equal(existsSync(files), false);
  });
});

test("a reference is remembered for itself: names that look alike do not meet", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("b", layers);
  const { pull } = await station(t);
  await pull(`${registry.host}/a_b:b`);
  await registry.stop();
  await pull(`${registry.host}/a_b:b`);
  for (const name of ["a_b:c", "a/b:b", "a:b"])
    await assert.rejects(pull(`${registry.host}/${name}`), { code: "E_CONNECTION" });
});

test("what dead pulls left is swept when the next one is complete", async (t) => {
  const registry = await startFakeRegistry(t);
  const { pull, directory } = await station(t);
  const old = new Date(Date.now() - 25 * 3600_000);
  const leftovers = [
    "incoming/removed-x",
    "incoming/bundle-x",
    "incoming/blob-old",
    "blobs/sha256/unnamed",
    "bundles/sha256-x",
  ];
  for (const name of leftovers) await mkdir(join(directory, name), { recursive: true });
  await utimes(join(directory, "incoming/blob-old"), old, old);
  // As an agent of another version left it.
  const foreign = `bundles/sha256-${"0".repeat(64)}`;
  await mkdir(join(directory, foreign, "files"), { recursive: true });
  await writeFile(join(directory, foreign, "bundle.json"), JSON.stringify({ files: [] }));
  await writeFile(join(directory, "incoming/blob-new"), "the first part of something");
  registry.put("v1", layers);
  await pull(`${registry.host}/ns/repo:v1`);
  assert.deepEqual(await readdir(join(directory, "incoming")), ["blob-new"]);
  assert.equal((await readdir(join(directory, "blobs/sha256"))).includes("unnamed"), false);
  assert.equal(existsSync(join(directory, foreign)), false);
});

test("closing the cache ends pulls under way and leaves only what can be continued", async (t) => {
  const registry = await startFakeRegistry(t);
  registry.put("v1", layers);
  const { pull, newCache, directory } = await station(t);
  let asked = () => {};
  const hanging = new Promise<void>((resolve) => (asked = resolve));
  registry.answer = (request, response) => {
    if (!request.url?.includes("/blobs/")) return false;
    response.writeHead(200, { "content-length": "1000" }).write("x");
    asked();
    return true;
  };
  const cache = newCache();
  const pulling = assert.rejects(pull(`${registry.host}/ns/repo:v1`, { cache }), { code: "E_CANCELLED" });
  await hanging;
  await cache.close();
  await pulling;
  const left = (await remains(directory)).filter((name) => !/^(locks|blobs\/sha256)\/|^incoming\/blob-/.test(name));
  assert.deepEqual(left, []);
});

/** A certificate authority of a lab and a certificate of its for 127.0.0.1. */
async function labCertificates(t: TestContext): Promise<{ caPath: string; key: string; cert: string }> {
  const directory = await writeFiles(t, { "extensions.cnf": "subjectAltName=IP:127.0.0.1" });
  const openssl = (...words: string[]) => execFileSync("openssl", words, { cwd: directory, stdio: "ignore" });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl("req", "-x509", ...newKey, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Lab CA", "-days", "2");
  openssl("req", ...newKey, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=registry");
  const by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions.cnf"];
  openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", ...by);
  const [key, cert] = await Promise.all(
    ["key", "crt"].map((kind) => readFile(join(directory, `server.${kind}`), "utf8")),
  );
  return { caPath: join(directory, "ca.crt"), key: key ?? "", cert: cert ?? "" };
}

const noOpenssl = existsSync("/usr/bin/openssl") ? false : "openssl is not installed";

test(
  "a registry with a certificate of the lab's own is trusted only if its authority is named",
  { skip: noOpenssl },
  async (t) => {
    const { caPath, key, cert } = await labCertificates(t);
    const registry = await startFakeRegistry(t, { key, cert });
    registry.put("v1", layers);
    const { pull } = await station(t, "nobody");
    await assert.rejects(pull(`${registry.host}/ns/repo:v1`), { code: "E_CONNECTION", message: /cannot be trusted: / });
    assert.deepEqual(registry.requests, []);
    await assertWhole(await pull(`${registry.host}/ns/repo:v1`, { registryCa: caPath }));

    await t.test("also through the proxy that the environment names", async (t) => {
      const asked: string[] = [];
      const proxy = createServer().on("connect", (request, client) => {
        asked.push(request.url ?? "");
        const [, port = ""] = request.url?.split(":") ?? [];
        const server = connectTo(Number(port), "127.0.0.1", () => client.write("HTTP/1.1 200 OK\r\n\r\n"));
        pipeline(client, server, client, () => {});
      });
      await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
      t.after(() => proxy.close());
      withEnvironment(t, {
        HTTPS_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
        NO_PROXY: "elsewhere",
      });
      await assertWhole(await (await station(t, "nobody")).pull(`${registry.host}/ns/repo:v1`, { registryCa: caPath }));
      assert.ok(asked.length > 0 && asked.every((url) => url === registry.host));
    });
  },
);

function withEnvironment(t: TestContext, variables: Record<string, string>): void {
  const before = { ...process.env };
  Object.assign(process.env, variables);
  t.after(() => {
    for (const name of Object.keys(variables)) delete process.env[name];
    Object.assign(process.env, before);
  });
}
