import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { Readable } from "node:stream";
import { digestOf, type Digest } from "../../bundles/oci/digest.ts";
import type { RawManifest } from "../../bundles/oci/image.ts";
import type { Sink } from "../../bundles/oci/sink.ts";
import type { Source } from "../../bundles/oci/source.ts";
import { readPublicKey, type TrustedKey } from "../../bundles/signature/keys.ts";
import { imageType } from "./registry.ts";

export interface KeyPair {
  readonly privateKey: KeyObject;
  readonly pem: string;
  readonly trusted: TrustedKey;
}

export function keyPair(kind: "P-256" | "P-384" | "ed25519", name = `${kind}.pub`): KeyPair {
  const { privateKey, publicKey } =
    kind === "ed25519" ? generateKeyPairSync("ed25519") : generateKeyPairSync("ec", { namedCurve: kind });
  const pem = publicKey.export({ type: "spki", format: "pem" }) as string;
  return { privateKey, pem, trusted: readPublicKey(pem, name) };
}

/** A repository in memory: what is put there can be got, and tests may put anything. */
export class MemoryRepository implements Source, Sink {
  readonly tags = new Map<string, Digest>();
  readonly contents = new Map<string, Uint8Array>();

  /** @returns the digest of an image without layers */
  putImage(tag: string, document: object = {}): Digest {
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: imageType, layers: [], ...document }));
    const digest = digestOf(bytes);
    this.contents.set(digest, bytes);
    this.tags.set(tag, digest);
    return digest;
  }

  resolve = () => Promise.resolve(this.tags.get("latest") as Digest);
  tagged = (tag: string) => Promise.resolve(this.tags.get(tag));
  manifest = (digest: Digest): Promise<RawManifest> =>
    Promise.resolve({ bytes: this.contents.get(digest) ?? Buffer.alloc(0), mediaType: undefined });
  blob: Source["blob"] = ({ digest }) => Promise.resolve(Readable.from([this.contents.get(digest) ?? Buffer.alloc(0)]));

  hasBlob: Sink["hasBlob"] = ({ digest }) => Promise.resolve(this.contents.has(digest));
  putBlob: Sink["putBlob"] = async (expected, from, { signal }) => {
    const chunks = (await (await from.blob(expected, { signal })).toArray()) as Buffer[];
    this.contents.set(expected.digest, Buffer.concat(chunks));
  };
  putManifest: Sink["putManifest"] = ({ bytes }, digest, { named }) => {
    this.contents.set(digest, bytes);
    if (named !== undefined) this.tags.set(named.tag, digest);
    return Promise.resolve();
  };
  finish = () => Promise.resolve();
  close = () => Promise.resolve();
}
