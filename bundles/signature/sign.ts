import { createPublicKey, type KeyObject } from "node:crypto";
import { Readable } from "node:stream";
import { AgentError } from "../../agent/driver/errors.ts";
import { digestOf, signatureTagOf, verify, type Digest } from "../oci/digest.ts";
import type { RawManifest } from "../oci/image.ts";
import type { Sink } from "../oci/sink.ts";
import type { Source } from "../oci/source.ts";
import { withSignature } from "./image.ts";
import { fingerprintOf, signBytes } from "./keys.ts";
import { writePayload, type SignedStatement } from "./payload.ts";
import { verifySignature } from "./verify.ts";

export interface Signing {
  /** Where the image and its signatures are. */
  readonly source: Source;
  /** The same place, to be written to. */
  readonly sink: Sink;
  readonly statement: SignedStatement;
  readonly key: KeyObject;
  /** What errors call the image. */
  readonly name: string;
  readonly signal: AbortSignal;
}

/**
 * Signs an image as cosign does, beside the signatures that are there. One that says the same already is left as it is.
 * @returns the tag under which the signatures are found, and the digest of what it names
 * @throws AgentError E_INVALID if there is no such image; as the source and the sink
 */
export async function signImage(signing: Signing): Promise<{ tag: string; image: Digest; isNew: boolean }> {
  const { source, sink, statement, key, name, signal } = signing;
  verify((await source.manifest(statement.digest, signal)).bytes, statement.digest, `the manifest of ${name}`);
  const tag = signatureTagOf(statement.digest);
  const known = await ownSignature(signing);
  if (known !== undefined) return { tag, image: known, isNew: false };

  const payload = writePayload(statement);
  const { manifest, blobs } = withSignature(await currentImage(signing, tag), payload, signBytes(key, payload));
  for (const { bytes, ...expected } of blobs) {
    if (await sink.hasBlob(expected, signal)) continue;
    const blob = () => Promise.resolve(Readable.from([bytes], { objectMode: false }));
    await sink.putBlob(expected, { blob }, { name: `the signature of ${name}`, signal });
  }
  const image = digestOf(manifest.bytes);
  await sink.putManifest(manifest, image, { named: { tag }, signal });
  await sink.finish();
  return { tag, image, isNew: true };
}

/** The image with the signatures that are there. */
async function currentImage({ source, name, signal }: Signing, tag: string): Promise<RawManifest | undefined> {
  const digest = await source.tagged(tag, signal);
  if (digest === undefined) return undefined;
  const raw = await source.manifest(digest, signal);
  verify(raw.bytes, digest, `the image of the signatures of ${name}`);
  return raw;
}

async function ownSignature({ source, statement, key, name, signal }: Signing): Promise<Digest | undefined> {
  const trust = {
    keys: [{ name: "the key", fingerprint: fingerprintOf(key), key: createPublicKey(key) }],
    acceptsRepository: (repository: string) => repository === statement.repository,
  };
  try {
    return (await verifySignature(source, statement.digest, trust, { name, signal })).image;
  } catch (error) {
    if (error instanceof AgentError && error.code === "E_SIGNATURE") return undefined;
    throw error;
  }
}
