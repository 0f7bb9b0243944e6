import assert from "node:assert/strict";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { findCredential } from "../../../agent/stream/registry-credentials.ts";
import { chooseImage, planLayers, readManifest, type ImageIndex } from "../../../bundles/oci/image.ts";
import { formatReference, parseReference } from "../../../bundles/oci/reference.ts";
import { temporaryDirectory, writeFiles } from "../../sim/bundle.ts";

const sha = (digit: string) => `sha256:${digit.repeat(64)}`;

test("references are read and written in full", () => {
  const table: Record<string, string> = {
    "quay.io/jumpstarter-dev/flasher": "quay.io/jumpstarter-dev/flasher:latest",
    "quay.io/jumpstarter-dev/flasher:new": "quay.io/jumpstarter-dev/flasher:new",
    "localhost/ns/repo": "localhost/ns/repo:latest",
    "localhost:5000/repo:v1.2_3-x": "localhost:5000/repo:v1.2_3-x",
    "10.0.0.1:5000/a/b/c": "10.0.0.1:5000/a/b/c:latest",
    "[::1]:5000/ns/repo:1": "[::1]:5000/ns/repo:1",
    "ns/repo": "docker.io/ns/repo:latest",
    busybox: "docker.io/library/busybox:latest",
    [`quay.io/ns/repo@${sha("a")}`]: `quay.io/ns/repo:latest@${sha("a")}`,
    [`quay.io/ns/repo:tag@${sha("a")}`]: `quay.io/ns/repo:tag@${sha("a")}`,
    "oci-layout:/srv/layout": "oci-layout:/srv/layout",
    "oci-layout:/srv/lay:out/x:tag": "oci-layout:/srv/lay:out/x:tag",
    [`oci-layout:/srv/a@b@${sha("b")}`]: `oci-layout:/srv/a@b@${sha("b")}`,
    "oci-layout:relative": `oci-layout:${resolve("relative")}`,
    "file:/srv/a:b": "file:/srv/a:b",
    "file:../x": `file:${resolve("../x")}`,
  };
  for (const [written, full] of Object.entries(table)) {
    assert.equal(formatReference(parseReference(written)), full);
    assert.equal(formatReference(parseReference(full)), full);
  }
});

test("malformed references are refused", () => {
  const wrong = [
    "",
    "https://quay.io/ns/repo",
    "oci://quay.io/ns/repo",
    "quay.io/NS/repo",
    "quay.io/ns/repo:",
    "quay.io/",
  ]
    .concat([
      "quay.io/ns/repo:a b",
      "quay.io/ns/repo@sha256:12",
      "quay.io/ns/repo@md5:00",
      "quay.io/../repo",
      "-x.io/ns/repo",
    ])
    .concat([
      "quay.io/ns//repo",
      "user:pw@quay.io/ns/repo",
      "quay.io:port/ns/repo",
      "file:",
      "oci-layout:",
      "a".repeat(2000),
    ])
    .concat(["quay.io/ns/repo?x", "quay.io/ns/repo#x", "quay.io/ns/%2e%2e/repo", "quay.io:123456/ns/repo"]);
  for (const text of wrong) assert.throws(() => parseReference(text), { code: "E_INVALID" }, text);
});

const entry = (digit: string, platform?: string, artifactType?: string) => {
  const [os = "", architecture = ""] = platform?.split("/") ?? [];
  return {
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    digest: sha(digit),
    size: 1,
    ...(platform === undefined ? {} : { platform: { os, architecture } }),
    ...(artifactType === undefined ? {} : { artifactType }),
  };
};

test("of an index, the only image is taken, else the only bundle, else the one for this platform", () => {
  const choose = (...manifests: object[]) =>
    chooseImage({ schemaVersion: 2, manifests } as unknown as ImageIndex, "linux/arm64", "x").digest;
  const bundle = "application/vnd.oci.bundle.v1";
  assert.equal(choose(entry("a", "linux/amd64")), sha("a"));
  assert.equal(choose(entry("a", "linux/amd64"), entry("b", "unknown/unknown")), sha("a"));
  assert.equal(choose(entry("a", "linux/amd64"), entry("b", "linux/arm64")), sha("b"));
  assert.equal(choose(entry("a", "linux/arm64"), entry("b", undefined, bundle)), sha("b"));
  assert.equal(choose(entry("a", "linux/amd64", bundle), entry("b", "linux/arm64", bundle)), sha("b"));
  assert.throws(() => choose(entry("a", "linux/amd64"), entry("b", "linux/riscv64")), {
    code: "E_INVALID",
    message: "the index of x has no single image for linux/arm64; it offers: linux/amd64, linux/riscv64",
  });
  assert.throws(() => choose(), { code: "E_INVALID" });
});

const manifest = (document: object, mediaType?: string) =>
  readManifest({ bytes: Buffer.from(JSON.stringify(document)), mediaType }, "x");
const layer = (title: string | undefined, mediaType = "application/octet-stream", digit = "a", size = 1) => ({
  mediaType,
  digest: sha(digit),
  size,
  ...(title === undefined ? {} : { annotations: { "org.opencontainers.image.title": title } }),
});

test("a manifest whose media type is unknown or contradicts itself is refused", () => {
  const image = "application/vnd.oci.image.manifest.v1+json";
  const index = "application/vnd.oci.image.index.v1+json";
  const good = { schemaVersion: 2, layers: [] };
  assert.ok("image" in manifest({ ...good, mediaType: image }, image));
  assert.ok("image" in manifest(good, image));
  assert.ok("image" in manifest(good, "application/vnd.docker.distribution.manifest.v2+json"));
  assert.ok("index" in manifest({ schemaVersion: 2, manifests: [], mediaType: index }));
  for (const [document, mediaType] of [
    [good, undefined],
    [good, "text/html"],
    [{ ...good, mediaType: index }, image],
    [{ ...good, schemaVersion: 1 }, image],
    [{ schemaVersion: 2, layers: [{ ...layer("x"), digest: "sha256:12" }] }, image],
    [{ schemaVersion: 2, layers: [{ ...layer("x"), size: -1 }] }, image],
    [{ schemaVersion: 2, layers: [{ ...layer("x"), size: 1e99 }] }, image],
    [{ schemaVersion: 2, layers: Array.from({ length: 1001 }, () => layer("x")) }, image],
    [null, image],
  ] as const) {
    assert.throws(() => manifest(document as object, mediaType), { code: "E_INVALID" });
  }
  assert.throws(() => readManifest({ bytes: Buffer.from("<html>"), mediaType: image }, "x"), { code: "E_INVALID" });
});

test("layers go where their titles say, never out of the bundle", () => {
  const plan = (...layers: object[]) => {
    const read = manifest({ schemaVersion: 2, layers }, "application/vnd.oci.image.manifest.v1+json");
    return "image" in read ? planLayers(read.image, "x", 100).map(({ kind, path }) => `${kind} ${path}`) : [];
  };
  const tar = "application/vnd.oci.image.layer.v1.tar+gzip";
  assert.deepEqual(plan(layer("./manifest.yaml"), layer("data//kernel"), layer(undefined)), [
    "file manifest.yaml",
    "file data/kernel",
    `file sha256-${"a".repeat(64)}`,
  ]);
  assert.deepEqual(plan(layer("data", tar), layer("a/b/c", tar), layer(undefined, tar)), [
    "archive ",
    "archive a/b",
    "archive ",
  ]);
  const plain = "application/vnd.oci.image.layer.v1.tar";
  const ofDirectory = layer("d", plain) as { annotations: Record<string, string> };
  ofDirectory.annotations["io.deis.oras.content.unpack"] = "true";
  assert.deepEqual(
    plan(layer("a/b", tar.replace("gzip", "zstd")), layer("file", plain), ofDirectory, layer(undefined, plain)),
    ["archive a", "file file", "archive ", "archive "],
  );
  const evil = [
    "/etc/passwd",
    "../x",
    "a/../../x",
    "..",
    ".",
    "",
    "a\u0000b",
    "a\\..\\b",
    "x".repeat(256),
    "a\nb",
    "\ud800",
  ];
  for (const title of evil) assert.throws(() => plan(layer(title)), { code: "E_INVALID" }, JSON.stringify(title));
  for (const title of evil) assert.throws(() => plan(layer(title, tar)), { code: "E_INVALID" }, JSON.stringify(title));
  assert.throws(() => plan(layer("a"), layer("./a")), { code: "E_INVALID", message: /two layers titled "a"/ });
  assert.throws(() => plan(layer("a", "x", "a", 60), layer("b", "x", "b", 60)), { code: "E_LIMIT" });
});

test("logins come from the environment or the files of Podman and Docker, each for its own registry", async (t) => {
  const auth = (text: string) => ({ auth: Buffer.from(text).toString("base64") });
  const files = {
    "docker/config.json": JSON.stringify({
      auths: { "quay.io": auth("docker:a:b"), "https://index.docker.io/v1/": auth("hub:x") },
    }),
    "run/containers/auth.json": JSON.stringify({
      auths: { "quay.io/private": auth("podman:p"), "broken.io": { auth: "!" } },
    }),
    "home/.config/containers/auth.json": "not json",
  };
  const home = await writeFiles(t, files);
  const env = { HOME: join(home, "home"), DOCKER_CONFIG: join(home, "docker"), XDG_RUNTIME_DIR: join(home, "run") };
  const find = (host: string, repository: string, more: object = {}, useEnvironment = true) =>
    findCredential(host, repository, { useEnvironment, env: { ...env, ...more } });
  assert.deepEqual(await find("quay.io", "ns/repo"), { username: "docker", password: "a:b" });
  assert.deepEqual(await find("quay.io", "private/repo"), { username: "podman", password: "p" });
  assert.deepEqual(await find("docker.io", "library/x"), { username: "hub", password: "x" });
  assert.equal(await find("broken.io", "ns/repo"), undefined);
  assert.equal(await find("evil.io", "quay.io/private"), undefined);
  assert.equal(await find("__proto__", "x"), undefined);
  const oci = { OCI_USERNAME: "env", OCI_PASSWORD: "e" };
  assert.deepEqual(await find("any.io", "x", oci), { username: "env", password: "e" });
  assert.equal(await find("any.io", "x", oci, false), undefined);
  assert.equal(
    await findCredential("any.io", "x", { useEnvironment: true, env: { HOME: await temporaryDirectory(t) } }),
    undefined,
  );
});
