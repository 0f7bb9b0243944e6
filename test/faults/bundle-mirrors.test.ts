import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Digest } from "../../bundles/oci/digest.ts";
import { fetchBlob } from "../../bundles/oci/fetch-blob.ts";
import { mirrorsOf } from "../../bundles/oci/mirrors.ts";
import { formatReference, parseReference, type RegistryReference } from "../../bundles/oci/reference.ts";
import { openRepository } from "../../bundles/registry-settings.ts";
import { temporaryDirectory } from "../sim/bundle.ts";
import { sha256, startFakeRegistry } from "../sim/registry.ts";

const signal = AbortSignal.timeout(60_000);
const content = randomBytes(200_000);
const expected = { digest: sha256(content) as Digest, size: content.length };

test("a mirror has what the longest name that fits says, under its own name", () => {
  const mirrors = { "quay.io": ["mirror.lab:5000/quay", "other.lab"], "quay.io/boards": ["near.lab"] };
  const names = (text: string) =>
    mirrorsOf(parseReference(text) as RegistryReference, mirrors).map((mirror) => formatReference(mirror));
  assert.deepEqual(names("quay.io/ns/a:v1"), ["mirror.lab:5000/quay/ns/a:v1", "other.lab/ns/a:v1"]);
  assert.deepEqual(names("quay.io/boards/a:v1"), ["near.lab/a:v1"]);
  assert.deepEqual(names("quay.io/boardsX/a:v1".toLowerCase()), [
    "mirror.lab:5000/quay/boardsx/a:v1",
    "other.lab/boardsx/a:v1",
  ]);
  assert.deepEqual(names("ghcr.io/ns/a"), []);
});

/** A registry and a mirror of it, both with one image, and what a pull through them gives. */
async function lab(t: TestContext) {
  const [registry, mirror] = [await startFakeRegistry(t), await startFakeRegistry(t)];
  const digest = registry.put("v1", [{ title: "kernel", content }]) as Digest;
  mirror.put("v1", [{ title: "kernel", content }]);
  const failures: string[] = [];
  const pull = async () => {
    const source = await openRepository(parseReference(`${registry.host}/ns/a:v1`) as RegistryReference, {
      plainHttp: ["127.0.0.1"],
      registryCa: undefined,
      environmentCredentialsFor: undefined,
      mirrors: { [registry.host]: [`${mirror.host}/copies`] },
      onMirrorFailure: (name, error) => failures.push(`${name} ${error.code}`),
    });
    try {
      const path = join(await temporaryDirectory(t), "blob");
      const found = await source.resolve(signal);
      await source.manifest(digest, signal);
      await fetchBlob(source, expected, path, { name: "kernel", signal });
      assert.deepEqual(await readFile(path), content);
      return found;
    } finally {
      await source.close();
    }
  };
  const asked = (one: typeof registry) => one.requests.splice(0).map(({ method, url }) => `${method} ${url}`);
  return { registry, mirror, digest, failures, pull, asked };
}

test("tags are asked at the registry, content at the mirror", async (t) => {
  const { registry, mirror, digest, pull, asked } = await lab(t);
  assert.equal(await pull(), digest);
  assert.deepEqual(asked(registry), ["HEAD /v2/ns/a/manifests/v1"]);
  assert.deepEqual(asked(mirror), [
    `GET /v2/copies/ns/a/manifests/${digest}`,
    `GET /v2/copies/ns/a/blobs/${expected.digest}`,
  ]);
});

test("without the registry the mirror does, without the mirror the registry", async (t) => {
  const first = await lab(t);
  await first.registry.stop();
  assert.equal(await first.pull(), first.digest);
  const second = await lab(t);
  await second.mirror.stop();
  assert.equal(await second.pull(), second.digest);
  assert.deepEqual(second.failures, [`${second.mirror.host} E_CONNECTION`]);
});

test("a tag that the registry has not, or refuses, is not the mirror's to give", async (t) => {
  const { registry, mirror, pull, asked } = await lab(t);
  registry.manifests.clear();
  await assert.rejects(pull(), { code: "E_INVALID" });
  registry.answer = (_request, response) => response.writeHead(403).end() !== null;
  await assert.rejects(pull(), { code: "E_INVALID" });
  assert.deepEqual(asked(mirror), []);
});

test("a mirror that has not got it, lies or breaks off is passed over", async (t) => {
  const { mirror, digest, failures, pull } = await lab(t);
  mirror.blobs.clear();
  mirror.manifests.clear();
  assert.equal(await pull(), digest);
  assert.deepEqual(failures, []);

  mirror.blobs.set(expected.digest, Buffer.alloc(content.length));
  await pull();
  assert.deepEqual(failures.splice(0), [`${mirror.host} E_DIGEST`]);
  mirror.manifests.set(digest, { mediaType: "application/json", bytes: Buffer.from("{}") });
  await pull();
  assert.deepEqual(failures.splice(0), [`${mirror.host} E_DIGEST`]);
  mirror.manifests.clear();
  mirror.answer = (request, response) => {
    if (!request.url?.includes("/blobs/")) return false;
    response.writeHead(200, { "content-length": content.length });
    response.write(content.subarray(0, 100_000), () => response.destroy());
    return true;
  };
  await pull();
  assert.deepEqual(failures, [`${mirror.host} E_CONNECTION`]);
});
