import assert from "node:assert/strict";
import { test } from "node:test";
import { digestOf, type Digest } from "../../../bundles/oci/digest.ts";
import { readPublicKey, signBytes } from "../../../bundles/signature/keys.ts";
import { readPayload, writePayload, type SignedStatement } from "../../../bundles/signature/payload.ts";
import { signImage } from "../../../bundles/signature/sign.ts";
import { verifySignature, type Trust } from "../../../bundles/signature/verify.ts";
import { cosignPayload, cosignSignatures } from "../../sim/cosign-signatures.ts";
import { keyPair, MemoryRepository, type KeyPair } from "../../sim/signing.ts";

const name = "quay.io/lab/board:latest";
const repository = "quay.io/lab/board";
const { signal } = new AbortController();
const anywhere = () => true;
const trustIn = (...keys: KeyPair[]): Trust => ({ keys: keys.map((k) => k.trusted), acceptsRepository: anywhere });

const sign = (place: MemoryRepository, digest: Digest, { privateKey }: KeyPair, as = repository) =>
  signImage({
    source: place,
    sink: place,
    statement: { digest, repository: as },
    key: privateKey,
    name,
    signal,
  });

/** The sentence with which an image is refused. */
async function refusal(place: MemoryRepository, digest: Digest, trust: Trust): Promise<string> {
  return await verifySignature(place, digest, trust, { name, signal }).then(
    ({ key }) => `accepted, signed by ${key.name}`,
    (error: { code: string; message: string }) => `${error.code} ${error.message}`,
  );
}

for (const kind of ["P-256", "P-384", "ed25519"] as const) {
  test(`what is signed with a key of ${kind} is good for who trusts that key`, async () => {
    const [own, other] = [keyPair(kind), keyPair(kind)];
    const place = new MemoryRepository();
    const digest = place.putImage("latest");
    assert.equal((await sign(place, digest, own)).isNew, true);
    const found = await verifySignature(place, digest, trustIn(other, own), { name, signal });
    assert.equal(found.key.fingerprint, own.trusted.fingerprint);
    assert.deepEqual(found.statement, { digest, repository } satisfies SignedStatement);
    assert.equal(place.tags.get(`${digest.replace(":", "-")}.sig`), found.image);
    assert.match(await refusal(place, digest, trustIn(other)), /^E_SIGNATURE .*a signature is not of a trusted key$/);
  });
}

test("several may sign; who signs again changes nothing", async () => {
  const [first, second] = [keyPair("P-256"), keyPair("ed25519")];
  const place = new MemoryRepository();
  const digest = place.putImage("latest");
  await sign(place, digest, first);
  const { image } = await sign(place, digest, second);
  for (const key of [first, second]) {
    assert.deepEqual(await sign(place, digest, key), { tag: `${digest.replace(":", "-")}.sig`, image, isNew: false });
    assert.match(await refusal(place, digest, trustIn(key)), /^accepted/);
  }
});

test("a signature for another repository counts only where that is allowed", async () => {
  const own = keyPair("P-256", "lab.pub");
  const place = new MemoryRepository();
  const digest = place.putImage("latest");
  await sign(place, digest, own, "index.docker.io/lab/board");
  const strict = (allowed: string) => ({ ...trustIn(own), acceptsRepository: (given: string) => given === allowed });
  assert.match(await refusal(place, digest, strict("docker.io/lab/board")), /^accepted/);
  assert.match(
    await refusal(place, digest, strict(repository)),
    /a signature of lab\.pub was made for the repository "docker\.io\/lab\/board"$/,
  );
});

const own = keyPair("P-256", "lab.pub");
const payloadType = "application/vnd.dev.cosign.simplesigning.v1+json";
interface Forged {
  payload?: Buffer;
  stored?: Buffer;
  signature?: string;
  mediaType?: string;
  size?: number;
  layers?: number;
}

/** A signature's image as an enemy would make it. */
function forge(digest: Digest, place: MemoryRepository, forged: Forged): void {
  const payload = forged.payload ?? writePayload({ digest, repository });
  const signature = forged.signature ?? signBytes(own.privateKey, payload).toString("base64");
  place.contents.set(digestOf(payload), forged.stored ?? payload);
  const layer = {
    mediaType: forged.mediaType ?? payloadType,
    digest: digestOf(payload),
    size: forged.size ?? payload.length,
    annotations: { "dev.cosignproject.cosign/signature": signature },
  };
  place.putImage(`${digest.replace(":", "-")}.sig`, { layers: Array(forged.layers ?? 1).fill(layer) });
}

const statement = (digest: Digest, changes: object) => {
  const { critical } = JSON.parse(writePayload({ digest, repository }).toString()) as { critical: object };
  return Buffer.from(JSON.stringify({ critical: { ...critical, ...changes } }));
};
const flip = (bytes: Buffer, at: number) => {
  const flipped = Buffer.from(bytes);
  flipped.writeUInt8(flipped.readUInt8(at) ^ 1, at);
  return flipped;
};

const wrong: Record<string, [(digest: Digest) => Forged, RegExp]> = {
  "a bit of the signature flipped": [
    (digest) => ({
      signature: flip(signBytes(own.privateKey, writePayload({ digest, repository })), 20).toString("base64"),
    }),
    /not of a trusted key/,
  ],
  "a bit of the payload flipped": [
    (digest) => ({ stored: flip(writePayload({ digest, repository }), 40) }),
    /a signed payload is not what its digest says/,
  ],
  "another payload under a good signature": [
    () => {
      const signature = signBytes(own.privateKey, writePayload({ digest: digestOf(Buffer.from("x")), repository }));
      return { signature: signature.toString("base64") };
    },
    /not of a trusted key/,
  ],
  "a good signature of another image": [
    () => ({ payload: writePayload({ digest: digestOf(Buffer.from("other")), repository }) }),
    /a signature of lab\.pub is for another image, sha256:/,
  ],
  "no signature in the annotation": [() => ({ signature: "" }), /not of a trusted key/],
  "garbage in the annotation": [() => ({ signature: "%%%" }), /not of a trusted key/],
  "a text that says something else": [
    (digest) => ({ payload: statement(digest, { type: "atomic container signature" }) }),
    /is no statement about an image/,
  ],
  "a text without a digest": [
    (digest) => ({ payload: statement(digest, { image: {} }) }),
    /is no statement about an image/,
  ],
  "a digest that is none": [
    (digest) => ({ payload: statement(digest, { image: { "docker-manifest-digest": "sha256:12" } }) }),
    /is no statement about an image/,
  ],
  "a text that is not JSON": [() => ({ payload: Buffer.from("{") }), /what was signed is not JSON/],
  "a short payload": [(digest) => ({ stored: writePayload({ digest, repository }).subarray(1) }), /is shorter than/],
  "a long payload": [
    (digest) => ({ stored: Buffer.concat([writePayload({ digest, repository }), Buffer.from(" ")]) }),
    /is longer than/,
  ],
  "an endless payload": [() => ({ size: 1e9 }), /a signed payload of 1000000000 bytes/],
  "too many signatures": [() => ({ layers: 51 }), /has 51 signatures; 50 are looked at/],
  "a layer of another kind": [() => ({ mediaType: "text/plain" }), /holds no signature$/],
};
for (const [what, [forged, why]] of Object.entries(wrong)) {
  test(`a signature with ${what} is refused by name`, async () => {
    const place = new MemoryRepository();
    const digest = place.putImage("latest");
    forge(digest, place, {});
    assert.match(await refusal(place, digest, trustIn(own)), /^accepted/);
    forge(digest, place, forged(digest));
    const told = await refusal(place, digest, trustIn(own));
    assert.match(told, /^E_SIGNATURE quay\.io\/lab\/board:latest has no signature that counts: /);
    assert.match(told, why);
  });
}

test("an image without signatures is refused, and so is one whose signatures are not what their tag says", async () => {
  const place = new MemoryRepository();
  const digest = place.putImage("latest");
  assert.match(
    await refusal(place, digest, trustIn(own)),
    /^E_SIGNATURE .*there is no sha256-[0-9a-f]{64}\.sig beside/,
  );
  await sign(place, digest, own);
  const tag = `${digest.replace(":", "-")}.sig`;
  const image = place.tags.get(tag) as Digest;
  const documents: [Buffer, RegExp][] = [
    [flip(Buffer.from(place.contents.get(image) as Uint8Array), 30), /is not what its digest says/],
    [Buffer.from("{}"), /is not what its digest says/],
  ];
  for (const [bytes, why] of documents) {
    place.contents.set(image, bytes);
    assert.match(await refusal(place, digest, trustIn(own)), why);
  }
  for (const content of [
    "{",
    '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
  ]) {
    const bytes = Buffer.from(content);
    place.contents.set(digestOf(bytes), bytes);
    place.tags.set(tag, digestOf(bytes));
    assert.match(await refusal(place, digest, trustIn(own)), /^E_SIGNATURE .*(is not JSON|is an index)/);
  }
});

test("what keeps the signatures from being read says nothing of them", async () => {
  const place = new MemoryRepository();
  const digest = place.putImage("latest");
  place.tagged = () => Promise.reject(Object.assign(new Error("away"), { code: "ECONNRESET" }));
  await assert.rejects(verifySignature(place, digest, trustIn(own), { name, signal }), { code: "ECONNRESET" });
});

test("one good signature among bad ones is enough", async () => {
  const place = new MemoryRepository();
  const digest = place.putImage("latest");
  await sign(place, digest, keyPair("P-256"));
  await sign(place, digest, own);
  assert.equal(await refusal(place, digest, trustIn(own)), "accepted, signed by lab.pub");
});

for (const [kind, { pem, signature }] of Object.entries(cosignSignatures)) {
  test(`a signature that cosign made with a key of ${kind} is good, and ours is of the same text`, async () => {
    const statement = readPayload(Buffer.from(cosignPayload));
    assert.equal(writePayload(statement).toString(), cosignPayload);
    const place = new MemoryRepository();
    forge(statement.digest, place, { payload: Buffer.from(cosignPayload), signature });
    const trust = { keys: [readPublicKey(pem, "cosign.pub")], acceptsRepository: anywhere };
    assert.equal(await refusal(place, statement.digest, trust), "accepted, signed by cosign.pub");
    assert.match(await refusal(place, statement.digest, trustIn(own)), /not of a trusted key/);
  });
}
