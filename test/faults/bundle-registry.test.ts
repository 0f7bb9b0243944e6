import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Credential } from "../../agent/stream/registry-credentials.ts";
import { copyImage } from "../../bundles/oci/copy.ts";
import { artifactOf } from "../../bundles/oci/artifact.ts";
import { fetchBlob } from "../../bundles/oci/fetch-blob.ts";
import { forEachBounded } from "../../bundles/oci/bounded.ts";
import { filesBelow } from "../../bundles/oci/push.ts";
import { parseReference, type RegistryReference } from "../../bundles/oci/reference.ts";
import { openRegistry, type RegistryOptions } from "../../bundles/oci/registry.ts";
import { openRegistrySink } from "../../bundles/oci/registry-sink.ts";
import { readTree } from "../../bundles/oci/tree.ts";
import { temporaryDirectory, writeFiles } from "../sim/bundle.ts";
import { noRealRegistry, startFakeRegistry, startRealRegistry } from "../sim/registry.ts";
import { identityToken, startTokenService, tokenUser } from "../sim/token-service.ts";

const skip = noRealRegistry;
const signal = AbortSignal.timeout(120_000);
const files = Object.fromEntries(Array.from({ length: 8 }, (_, index) => [`data/${index}`, randomBytes(100_000)]));

const referenceOf = (text: string) => parseReference(text) as RegistryReference;

/** Pushes eight files. @returns the digest */
async function push(t: TestContext, name: string, options: RegistryOptions) {
  const reference = referenceOf(name);
  const { source, digest } = await artifactOf(await filesBelow(await writeFiles(t, files)), signal);
  const sink = openRegistrySink(reference, options);
  try {
    await copyImage(source, digest, sink, { name, named: { tag: reference.tag }, signal });
    return digest;
  } finally {
    await sink.close();
  }
}

/** Pulls all blobs of an image, three at a time. @returns how many */
async function pull(t: TestContext, name: string, options: RegistryOptions): Promise<number> {
  const into = await temporaryDirectory(t);
  const source = openRegistry(referenceOf(name), options);
  try {
    const { blobs } = await readTree(source, await source.resolve(signal), { name, signal });
    await forEachBounded(blobs, { most: 3, signal }, async (blob, anySignal) => {
      await fetchBlob(source, blob, join(into, blob.digest), { name: blob.name, signal: anySignal });
    });
    return blobs.length;
  } finally {
    await source.close();
  }
}

test("Debian's registry with a token service and a private authority", { skip }, async (t) => {
  const service = await startTokenService(t);
  const tls = await service.authority.serverCertificate();
  const { host } = await startRealRegistry(t, { tls, config: service.registryConfig });
  const access = { plainHttp: [], ca: service.authority.certificate };
  const login: Credential = tokenUser;
  await push(t, `${host}/private/bundle:v1`, { ...access, credential: login });
  await push(t, `${host}/public/bundle:v1`, { ...access, credential: login });
  const recent = () => service.requests.splice(0);
  recent();

  await t.test("one token is enough for many blobs, and is asked for with the login", async () => {
    assert.equal(await pull(t, `${host}/private/bundle:v1`, { ...access, credential: login }), 9);
    const [request, ...more] = recent();
    assert.deepEqual(more, []);
    assert.equal(request?.method, "GET");
    assert.equal(request?.parameters.get("scope"), "repository:private/bundle:pull");
    assert.equal(request?.parameters.get("service"), "registry.lab");
  });

  await t.test("without a login, what is public is there and what is private is not", async () => {
    await pull(t, `${host}/public/bundle:v1`, access);
    assert.equal(recent()[0]?.authorization, undefined);
    await assert.rejects(pull(t, `${host}/private/bundle:v1`, access), {
      code: "E_INVALID",
      message: /HTTP 401 UNAUTHORIZED$/,
      hint: /log in/,
    });
  });

  await t.test("the identity token of a docker login is traded for one by OAuth2", async () => {
    recent();
    assert.equal(await pull(t, `${host}/private/bundle:v1`, { ...access, credential: { identityToken } }), 9);
    const [request] = recent();
    assert.equal(request?.method, "POST");
    assert.equal(request?.parameters.get("grant_type"), "refresh_token");
    assert.equal(request?.authorization, undefined);
  });

  await t.test("a token that is about to expire is renewed before it is used", async () => {
    service.lifeSeconds = 2;
    assert.equal(await pull(t, `${host}/private/bundle:v1`, { ...access, credential: login }), 9);
    assert.ok(recent().length > 3);
    await push(t, `${host}/private/other:v1`, { ...access, credential: login });
    service.lifeSeconds = 300;
  });

  await t.test("a refused login is named without what is secret", async () => {
    for (const credential of [{ ...tokenUser, password: "wr0ng" }, { identityToken: "wr0ng" }]) {
      await assert.rejects(pull(t, `${host}/private/bundle:v1`, { ...access, credential }), (error: Error) => {
        assert.match(error.message, /refused a token from 127\.0\.0\.1:\d+: HTTP 401$/);
        assert.doesNotMatch(JSON.stringify(error) + String(error.stack), /wr0ng/);
        return true;
      });
    }
  });

  await t.test("an authority that is not named is not trusted", async () => {
    await assert.rejects(pull(t, `${host}/public/bundle:v1`, { plainHttp: [] }), {
      code: "E_CONNECTION",
      message: /cannot be trusted/,
    });
  });
});

test("Debian's registry with a file of passwords", { skip }, async (t) => {
  const htpasswd = join(await temporaryDirectory(t), "htpasswd");
  // bcrypt of tokenUser's password.
  await writeFile(htpasswd, "lab:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n");
  const { host } = await startRealRegistry(t, { config: [`auth: { htpasswd: { realm: lab, path: "${htpasswd}" } }`] });
  const options = { plainHttp: [host], credential: tokenUser };
  await push(t, `${host}/ns/bundle:v1`, options);
  assert.equal(await pull(t, `${host}/ns/bundle:v1`, options), 9);
  const wrong = { ...options, credential: { ...tokenUser, password: "wr0ng" } };
  await assert.rejects(pull(t, `${host}/ns/bundle:v1`, wrong), {
    code: "E_INVALID",
    message: /HTTP 401 UNAUTHORIZED$/,
  });
});

test("a login stays with its registry when blobs are to be uploaded elsewhere", async (t) => {
  const registry = await startFakeRegistry(t);
  const storage = await startFakeRegistry(t);
  registry.answer = (request, response) => {
    request.resume();
    if (request.headers.authorization === undefined) {
      response.writeHead(401, { "www-authenticate": 'Basic realm="lab"' }).end();
    } else if (request.method === "POST") {
      response.writeHead(202, { location: `http://${storage.host}/uploads/1` }).end();
    } else if (request.method === "PUT") {
      response.writeHead(201).end();
    } else return false;
    return true;
  };
  storage.answer = (request, response) => {
    request.resume().once("end", () => response.writeHead(201).end());
    return true;
  };
  await push(t, `${registry.host}/ns/repo:v1`, {
    plainHttp: [registry.host, storage.host],
    credential: { username: "lab", password: "secret" },
  });
  assert.ok(storage.requests.length >= Object.keys(files).length);
  assert.deepEqual(new Set(storage.requests.map(({ authorization }) => authorization)), new Set([undefined]));
  assert.ok(registry.requests.some(({ authorization }) => authorization?.startsWith("Basic ")));
});
