// `jmp-agent bundle …` as users type it, with Debian's registry and with skopeo, which knows nothing of us.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { cp, mkdir, open, readFile, readdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { archiveSource } from "../../bundles/oci/archive.ts";
import type { Digest } from "../../bundles/oci/digest.ts";
import { layoutSource } from "../../bundles/oci/layout.ts";
import { openLayoutSink } from "../../bundles/oci/layout-sink.ts";
import type { LayoutReference } from "../../bundles/oci/reference.ts";
import { signImage } from "../../bundles/signature/sign.ts";
import { verifySignature } from "../../bundles/signature/verify.ts";
import { bundleFiles, temporaryDirectory, writeFiles } from "../sim/bundle.ts";
import { noRealRegistry, startFakeRegistry, startRealRegistry } from "../sim/registry.ts";
import { keyPair } from "../sim/signing.ts";

const execute = promisify(execFile);
const noSkopeo = existsSync("/usr/bin/skopeo") ? false : "skopeo is not installed";
const limitMs = 60_000;

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the command as it is built; its home is the test's own. */
async function bundle(t: TestContext, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const home = await temporaryDirectory(t);
  const child = spawn(process.execPath, ["dist/jmp-agent.js", "bundle", ...args], {
    env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home, XDG_RUNTIME_DIR: home, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: limitMs,
  });
  let [out, err] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
  const [code] = (await once(child, "close")) as [number];
  return { code, out, err };
}

/** Runs a command that is to succeed. @returns what it prints with `--json` */
async function json(
  t: TestContext,
  args: readonly string[],
  env?: NodeJS.ProcessEnv,
): Promise<Record<string, unknown>> {
  const { code, out, err } = await bundle(t, [...args, "--json"], env);
  assert.equal(code, 0, `${args.join(" ")}\n${out}${err}`);
  return JSON.parse(out) as Record<string, unknown>;
}

const blobPath = (layout: string, digest: string) => join(layout, "blobs", digest.replace(":", "/"));

/** Turns one bit of a file over, where it lies. */
async function flipBit(path: string, at: number): Promise<void> {
  const file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 4;
  await file.write(byte, 0, 1, at);
  await file.close();
}

async function fileTree(directory: string): Promise<string[]> {
  return (await readdir(directory, { recursive: true })).sort();
}

test("a bundle's digest depends on its files and on nothing else", async (t) => {
  const [one, other] = await Promise.all([writeFiles(t, bundleFiles), temporaryDirectory(t)]);
  // Written in another order, at another time, with other rights, and one file through a link.
  for (const [path, content] of Object.entries(bundleFiles).reverse()) {
    await mkdir(join(other, path, ".."), { recursive: true });
    await writeFile(join(other, path), content, { mode: 0o600 });
  }
  await cp(join(other, "data/kernel"), join(other, "data/.kernel-6.1"));
  await rm(join(other, "data/kernel"));
  await symlink(".kernel-6.1", join(other, "data/kernel"));
  const out = await temporaryDirectory(t);
  const first = await json(t, ["build", one, "--output", `oci-layout:${join(out, "a")}:v1`]);
  const second = await json(t, ["build", other, "--output", `oci-archive:${join(out, "b.tar")}`]);
  assert.match(first["digest"] as string, /^sha256:[0-9a-f]{64}$/);
  assert.equal(second["digest"], first["digest"]);
  await writeFile(join(other, "data/.kernel-6.1"), "another kernel");
  const third = await json(t, ["build", other, "--output", `oci-layout:${join(out, "a")}:v2`]);
  assert.notEqual(third["digest"], first["digest"]);
  assert.equal(third["movedBlobs"], 1);
  assert.deepEqual(Object.keys(third).sort(), [
    "blobs",
    "digest",
    "movedBlobs",
    "movedBytes",
    "reference",
    "signature",
  ]);
});

test("what is no bundle is refused with every reason, and nothing is written", async (t) => {
  const manifest = Buffer.from(bundleFiles["manifest.yaml"] as Uint8Array).toString();
  const spoilt: [string, Record<string, Uint8Array | string>, RegExp][] = [
    ["no manifest", { "data/kernel": "x" }, /has no manifest/],
    [
      "files that are not there",
      { "manifest.yaml": manifest },
      /spec\.kernel\.file: there is no file data\/kernel;.*alternate\.dtb/,
    ],
    [
      "a manifest that is none",
      { ...bundleFiles, "other.yaml": "spec: 1" },
      /other\.yaml is not a flasher bundle manifest: metadata/,
    ],
    [
      "a default that does not exist",
      { ...bundleFiles, "manifest.yaml": manifest.replace("default: test-dtb", "default: rev-z") },
      /there is no variant rev-z/,
    ],
    [
      "a path that leads out",
      { ...bundleFiles, "manifest.yaml": manifest.replace("data/kernel", "../kernel") },
      /not a path inside the bundle/,
    ],
  ];
  for (const [why, files, message] of spoilt) {
    const directory = await writeFiles(t, files);
    const out = join(await temporaryDirectory(t), "out");
    const { code, err } = await bundle(t, ["build", directory, "--output", `oci-layout:${out}`]);
    assert.equal(code, 1, why);
    assert.match(err, message, why);
    assert.equal(existsSync(out), false, why);
  }
  const linked = await writeFiles(t, bundleFiles);
  await symlink("/etc/hostname", join(linked, "data/secret"));
  assert.match(
    (await bundle(t, ["build", linked, "--output", "oci-layout:/dev/null/x"])).err,
    /secret leads out of the directory/,
  );
});

test("several manifests in one bundle", async (t) => {
  const manifest = bundleFiles["manifest.yaml"] as Uint8Array;
  const { "manifest.yaml": _, ...data } = bundleFiles;
  const directory = await writeFiles(t, {
    ...data,
    "manifest-ti.yaml": manifest,
    "manifest-nxp.yaml": manifest,
    "data/notes": "n",
  });
  const layout = `oci-layout:${join(await temporaryDirectory(t), "out")}`;
  const { code, err } = await bundle(t, ["build", directory, "--output", layout]);
  assert.equal(code, 0);
  assert.match(err, /no manifest\.yaml; flashers must name one \(manifest: manifest-nxp\.yaml, manifest-ti\.yaml\)/);
  assert.match(err, /no manifest names data\/notes/);
  const { images } = await json(t, ["inspect", layout]);
  const [image] = images as { artifactType: string; manifests: { file: string; name: string; targets: string[] }[] }[];
  assert.equal(image?.artifactType, "application/vnd.oci.bundle.v1");
  assert.deepEqual(
    image?.manifests.map(({ file, name, targets }) => [file, name, targets]),
    [
      ["manifest-nxp.yaml", "simulated", ["usd", "emmc"]],
      ["manifest-ti.yaml", "simulated", ["usd", "emmc"]],
    ],
  );
});

test("the whole way: build, push, mount, verify, export, import", { skip: noRealRegistry }, async (t) => {
  const { host, stop } = await startRealRegistry(t);
  const plain = ["--plain-http", host];
  const reference = `${host}/boards/simulated:v1`;
  const out = await temporaryDirectory(t);
  const { digest } = await json(t, ["build", await writeFiles(t, bundleFiles), "--output", reference, ...plain]);

  await t.test("a second push sends nothing, one to another repository of the registry neither", async () => {
    const again = await json(t, ["push", reference, `${host}/boards/other:v1`, ...plain]);
    assert.equal(again["digest"], digest);
    const third = await json(t, ["push", `${host}/boards/other:v1`, reference, ...plain]);
    assert.equal(third["movedBlobs"], 0);
  });

  await t.test("it is whole", async () => {
    const { ok, contents } = await json(t, ["verify", reference, ...plain]);
    assert.equal(ok, true);
    assert.equal((contents as unknown[]).length, 2 + Object.keys(bundleFiles).length);
  });

  await t.test("skopeo reads what we write, and we what skopeo writes", { skip: noSkopeo }, async () => {
    const skopeo = (...words: string[]) => execute("skopeo", ["--insecure-policy", ...words], { timeout: limitMs });
    const [archive, layout, back] = ["a.tar", "layout", "skopeo.tar"].map((name) => join(out, name)) as [
      string,
      string,
      string,
    ];
    await json(t, ["export", reference, archive, ...plain]);
    await skopeo("copy", `oci-archive:${archive}:v1`, `oci:${layout}:v2`);
    await skopeo("copy", "--dest-tls-verify=false", `oci:${layout}:v2`, `docker://${host}/boards/simulated:skopeo`);
    await skopeo("copy", "--src-tls-verify=false", `docker://${reference}`, `oci-archive:${back}:v3`);
    for (const place of [
      `oci-layout:${layout}`,
      `oci-layout:${layout}:v2`,
      `${host}/boards/simulated:skopeo`,
      `oci-archive:${back}`,
    ]) {
      const verified = await json(t, ["verify", place, ...plain]);
      assert.equal(verified["digest"], digest, place);
    }
    const { stdout } = await skopeo("inspect", "--raw", `oci-archive:${archive}`);
    const manifest = JSON.parse(stdout) as { layers: { mediaType: string; annotations: Record<string, string> }[] };
    assert.deepEqual(
      manifest.layers.map(({ mediaType, annotations }) => [annotations["org.opencontainers.image.title"], mediaType]),
      Object.keys(bundleFiles)
        .sort()
        .map((title) => [title, title.endsWith(".yaml") ? "application/yaml" : "application/octet-stream"]),
    );
  });

  await t.test("a directory takes two bundles, and a lab without network takes them from it, read-only", async () => {
    const stick = join(out, "stick");
    const second = await writeFiles(t, { ...bundleFiles, "data/kernel": "another kernel" });
    await json(t, ["export", reference, stick, ...plain]);
    await json(t, ["build", second, "--output", `${host}/boards/simulated:v2`, ...plain]);
    const { movedBlobs } = await json(t, ["export", `${host}/boards/simulated:v2`, stick, ...plain]);
    assert.equal(movedBlobs, 1);
    assert.equal((await fileTree(stick)).includes(".incoming"), false);
    await stop();
    await execute("chmod", ["-R", "a-w", stick]);
    const cache = await temporaryDirectory(t);
    const imported = await json(t, ["import", `oci-layout:${stick}:v1`, "--cache-dir", cache]);
    assert.equal(imported["reference"], reference);
    assert.equal(imported["digest"], digest);
    const pulled = await bundle(t, ["pull", reference, "--cache-dir", cache, ...plain]);
    assert.equal(pulled.code, 0, pulled.err);
    assert.match(pulled.err, /cannot be reached.*using sha256/);
    const directory = pulled.out.trim().split("\n").at(-1) as string;
    for (const [path, content] of Object.entries(bundleFiles)) {
      assert.deepEqual(await readFile(join(directory, path)), Buffer.from(content), path);
    }
    const unnamed = await bundle(t, ["import", stick, "--cache-dir", cache]);
    assert.equal(unnamed.code, 1);
    assert.match(unnamed.err, /has 2 images.*name one[^]*Hint: it has these tags: v1, v2/);
    await execute("chmod", ["-R", "u+w", stick]);
  });
});

test("a signature goes wherever its bundle goes", { skip: noRealRegistry }, async (t) => {
  const { host } = await startRealRegistry(t);
  const plain = ["--plain-http", host];
  const out = await temporaryDirectory(t);
  const layout: LayoutReference = {
    kind: "oci-layout",
    directory: join(out, "layout"),
    tag: undefined,
    digest: undefined,
  };
  const built = await json(t, [
    "build",
    await writeFiles(t, bundleFiles),
    "--output",
    `oci-layout:${layout.directory}`,
  ]);
  const digest = built["digest"] as Digest;
  const { privateKey, trusted } = keyPair("ed25519");
  const repository = "lab/boards/a";
  const signal = AbortSignal.timeout(limitMs);
  const sink = await openLayoutSink(layout);
  const statement = { digest, repository };
  const { image } = await signImage({
    source: layoutSource(layout),
    sink,
    statement,
    key: privateKey,
    name: "a",
    signal,
  });
  await sink.close();

  const archive = join(out, "a.tar");
  const pushed = await json(t, ["push", `oci-layout:${layout.directory}`, `${host}/boards/a:v1`, ...plain]);
  assert.equal(pushed["signature"], image);
  assert.equal((await json(t, ["export", `${host}/boards/a:v1`, archive, ...plain]))["signature"], image);
  const source = await archiveSource(archive, undefined);
  assert.equal(await source.resolve(signal), digest);
  const trust = { keys: [trusted], acceptsRepository: (name: string) => name === repository };
  assert.equal((await verifySignature(source, digest, trust, { name: "a", signal })).image, image);
  await source.close();
});

test("the cache is listed, verified, carried away by digest, and pruned", async (t) => {
  const out = await temporaryDirectory(t);
  const cache = ["--cache-dir", join(out, "cache")];
  const layout = `oci-layout:${join(out, "layout")}`;
  assert.equal((await bundle(t, ["list", ...cache])).out, "no bundles\n");
  const { digest } = await json(t, ["build", await writeFiles(t, bundleFiles), "--output", layout]);
  const name = "registry.example.com/boards/a:v1";
  await json(t, ["import", join(out, "layout"), name, ...cache]);

  const [listed, ...others] = (await json(t, ["list", ...cache])) as unknown as {
    digest: string;
    directory: string;
    isInUse: boolean;
    references: { name: string }[];
  }[];
  assert.deepEqual(others, []);
  assert.equal(listed?.digest, digest);
  assert.equal(listed?.isInUse, false);
  assert.deepEqual(
    listed?.references.map((one) => one.name),
    [name],
  );
  assert.match(
    (await bundle(t, ["list", ...cache])).out,
    /^sha256:\w{64} {2}[\d.]+ KiB, used 0 min ago\n {2}registry\.example\.com\/boards\/a:v1, as of 0 min ago\n$/,
  );

  const word = digest as string;
  assert.equal((await json(t, ["verify", word, ...cache]))["ok"], true);
  const archive = join(out, "a.tar");
  assert.equal((await json(t, ["export", word, archive, ...cache]))["digest"], digest);
  const again = await json(t, ["import", archive, "--cache-dir", join(out, "other")]);
  assert.deepEqual([again["reference"], again["digest"]], [name, digest]);
  const { images } = await json(t, ["inspect", word, ...cache]);
  assert.equal((images as unknown[]).length, 1);

  await execute("chmod", ["u+w", join(listed?.directory ?? "", "data/kernel")]);
  await flipBit(join(listed?.directory ?? "", "data/kernel"), 3);
  const damaged = await bundle(t, ["verify", word, ...cache]);
  assert.equal(damaged.code, 1);
  assert.match(damaged.out, new RegExp(`^BAD {2}.*expected sha256:\\w+, got sha256:[^]*${word} is damaged\n$`));
  assert.equal((await bundle(t, ["export", word, join(out, "b.tar"), ...cache])).code, 1);
  assert.equal(existsSync(join(out, "b.tar")), false);

  assert.deepEqual(await json(t, ["pin", name, ...cache]), { reference: name, digest, isPinned: true });
  assert.match((await bundle(t, ["list", ...cache])).out, /, used 0 min ago, pinned\n/);
  assert.deepEqual((await json(t, ["prune", ...cache]))["removed"], []);
  assert.equal((await bundle(t, ["unpin", word, ...cache])).out, `unpinned ${word}\n`);
  const notHere = await bundle(t, ["pin", "registry.example.com/boards/a:v2", ...cache]);
  assert.equal(notHere.code, 1);
  assert.match(notHere.err, /boards\/a:v2 is not in the bundle cache\nHint: jmp-agent bundle pull/);
  assert.equal((await bundle(t, ["unpin", `sha256:${"0".repeat(64)}`, ...cache])).code, 1);
  assert.deepEqual((await json(t, ["prune", "--unused", "1", ...cache]))["removed"], []);
  assert.deepEqual((await json(t, ["prune", "--keep", "1GiB", ...cache]))["removed"], []);
  assert.equal((await bundle(t, ["prune", "--keep", "lots", ...cache])).code, 2);
  assert.deepEqual((await json(t, ["prune", ...cache]))["removed"], [digest]);
  assert.equal((await bundle(t, ["list", ...cache])).out, "no bundles\n");
  assert.match((await bundle(t, ["verify", word, ...cache])).err, /sha256/);
});

test("verify reads every byte and names each digest that does not match", async (t) => {
  const layout = join(await temporaryDirectory(t), "layout");
  await json(t, ["build", await writeFiles(t, bundleFiles), "--output", `oci-layout:${layout}`]);
  const { contents } = await json(t, ["verify", `oci-layout:${layout}`]);
  for (const { digest, name, bytes } of contents as { digest: string; name: string; bytes: number }[]) {
    const spoilt = join(await temporaryDirectory(t), "layout");
    await cp(layout, spoilt, { recursive: true });
    await flipBit(blobPath(spoilt, digest), bytes - 1);
    const { code, out } = await bundle(t, ["verify", `oci-layout:${spoilt}`]);
    assert.equal(code, 1, name);
    const bad = out.split("\n").filter((line) => line.startsWith("BAD"));
    assert.equal(bad.length, 1, out);
    assert.match(bad[0] as string, new RegExp(`^BAD  ${digest}  .*expected ${digest}, got sha256:`), name);
    // Nor does it get from here to anywhere.
    const copied = await bundle(t, ["push", `oci-layout:${spoilt}`, `oci-archive:${spoilt}.tar`]);
    assert.equal(copied.code, 1, name);
    assert.match(copied.err, /is not what its digest says/, name);
    assert.deepEqual(await readdir(join(spoilt, "..")), ["layout"]);
  }
  await rm(blobPath(layout, (contents as { digest: string }[])[2]?.digest as string));
  assert.match(
    (await bundle(t, ["verify", `oci-layout:${layout}`])).out,
    /^BAD {2}sha256:\w+ .* has no blobs\/sha256/m,
  );
});

test("what is damaged in a layout is written anew", async (t) => {
  const layout = join(await temporaryDirectory(t), "layout");
  const source = await writeFiles(t, bundleFiles);
  const build = () => json(t, ["build", source, "--output", `oci-layout:${layout}`]);
  await build();
  const { contents } = await json(t, ["verify", `oci-layout:${layout}`]);
  const kernel =
    (contents as { name: string; digest: string }[]).find(({ name }) => name === "data/kernel")?.digest ?? "";
  await flipBit(blobPath(layout, kernel), 7);
  assert.equal((await build())["movedBlobs"], 1);
  await json(t, ["verify", `oci-layout:${layout}`]);
});

test("a push that the registry breaks is taken up again; one that it refuses says why", async (t) => {
  const source = await writeFiles(t, bundleFiles);
  const registry = await startFakeRegistry(t);
  const uploads = new Map<string, Buffer>();
  let failures = 2;
  registry.answer = (request, response) => {
    const { method, url = "" } = request;
    if (method === "POST") response.writeHead(202, { location: "/v2/boards/a/blobs/uploads/1" }).end();
    else if (method !== "PUT") return false;
    else if (url.includes("uploads") && failures > 0 && (failures -= 1) >= 0) request.socket.destroy();
    else {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        uploads.set(url, Buffer.concat(chunks));
        response.writeHead(201).end();
      });
    }
    return true;
  };
  const words = ["build", source, "--output", `${registry.host}/boards/a:v1`, "--plain-http", registry.host];
  const { code, err } = await bundle(t, words);
  assert.equal(code, 0, err);
  assert.equal(
    [...uploads.keys()].filter((url) => url.includes("uploads")).length,
    1 + Object.keys(bundleFiles).length,
  );
  assert.deepEqual([...uploads.keys()].at(-1), "/v2/boards/a/manifests/v1");

  registry.answer = (request, response) => {
    if (request.method === "HEAD") return false;
    response.writeHead(403).end(JSON.stringify({ errors: [{ code: "DENIED", message: "no" }] }));
    return true;
  };
  const refused = await bundle(t, words);
  assert.equal(refused.code, 1);
  assert.match(refused.err, /refused an upload to boards\/a: HTTP 403 DENIED\nHint: log in/);
});

test("a mirror is asked for content first; the registry for the tag, and for what the mirror gets wrong", async (t) => {
  const [registry, mirror] = [await startFakeRegistry(t), await startFakeRegistry(t)];
  const layers = Object.entries(bundleFiles).map(([title, content]) => ({ title, content: Buffer.from(content) }));
  const digest = registry.put("v1", layers);
  mirror.put("v1", layers);
  const words = [`${registry.host}/boards/a:v1`, "--plain-http", "127.0.0.1"];
  const mirrored = ["--mirror", "quay.io=never.example", "--mirror", `${registry.host}=${mirror.host}/copies`];
  const pull = async () => await bundle(t, ["pull", ...words, ...mirrored, "--cache-dir", await temporaryDirectory(t)]);
  const good = await pull();
  assert.equal(good.code, 0, good.err);
  assert.ok(good.out.includes(digest));
  assert.ok(registry.requests.every(({ url }) => url.startsWith("/v2/boards/a/manifests/")));
  assert.ok(mirror.requests.some(({ url }) => url.startsWith("/v2/copies/boards/a/blobs/")));

  mirror.answer = (request, response) => request.url?.includes("/blobs/") === true && response.end("lies") !== null;
  const lied = await pull();
  assert.equal(lied.code, 0, lied.err);
  assert.match(lied.err, new RegExp(`^warning: the mirror ${mirror.host} is not used: the blob from`, "m"));
  assert.ok(registry.requests.some(({ url }) => url.startsWith("/v2/boards/a/blobs/")));
});

test("a registry without TLS is spoken to only if that was said, and the hint says how", async (t) => {
  const { host } = await startFakeRegistry(t);
  const { code, err } = await bundle(t, ["pull", `${host}/boards/a:v1`, "--cache-dir", await temporaryDirectory(t)]);
  assert.equal(code, 1);
  assert.match(err, new RegExp(`Hint: .*--plain-http ${host}`));
});

test("wrong words are told apart, with exit code 2", async (t) => {
  const spoilt: [string[], RegExp][] = [
    [[], /a command is missing/],
    [["biuld"], /no such command: bundle biuld, did you mean build\?/],
    [["build", "."], /--output is missing/],
    [["build", ".", "--output", "Not/A/Name"], /not a bundle reference: the repository is malformed/],
    [["build", ".", "--output", `a.example/b@sha256:${"0".repeat(64)}`], /named by a tag/],
    [["push", "file:.", "a.example/b"], /is a plain directory[^]*Hint: 'jmp-agent bundle build/],
    [["push", "a.example/b"], /missing SOURCE DESTINATION/],
    [["verify", "https://a.example/b"], /leave out the scheme/],
    [["pull", "oci-archive:x.tar"], /flashers know no archives/],
    [["inspect", "oci-archive:"], /names no file/],
    [["pull", "a.example/b", "--mirror", "near.example"], /"near\.example" is no mirror; write it as/],
    [["pull", "a.example/b", "--mirror", "a.example=https://near.example"], /is no mirror/],
  ];
  for (const [args, message] of spoilt) {
    const { code, err } = await bundle(t, args);
    assert.equal(code, 2, args.join(" "));
    assert.match(err, message);
  }
  const missing = await bundle(t, ["verify", "oci-archive:/nowhere.tar"]);
  assert.equal(missing.code, 1);
  assert.match(missing.err, /there is no file \/nowhere\.tar/);
});

test("a layout is not laid over something else", async (t) => {
  const [source, home] = await Promise.all([writeFiles(t, bundleFiles), writeFiles(t, { "letter.txt": "dear" })]);
  const { code, err } = await bundle(t, ["build", source, "--output", `oci-layout:${home}`]);
  assert.equal(code, 1);
  assert.match(err, /neither empty nor an OCI image layout/);
  assert.deepEqual(await readdir(home), ["letter.txt"]);
  assert.equal((await stat(join(home, "letter.txt"))).size, 4);
});
