import { AgentError } from "../../agent/driver/errors.ts";
import { digestOf, type Expected } from "../oci/digest.ts";
import { imageManifestType, readManifest, type RawManifest, type TypedManifest } from "../oci/image.ts";

// How cosign keeps signatures: an image whose layers are the signed payloads, with the signatures as annotations
// (github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md).
const payloadType = "application/vnd.dev.cosign.simplesigning.v1+json";
const signatureAnnotation = "dev.cosignproject.cosign/signature";
const configType = "application/vnd.oci.image.config.v1+json";

/** More are not looked at: whoever can write to a registry could make each check take for ever. */
const mostSignatures = 50;
const largestPayloadBytes = 64 * 1024;

/** A signature, and where the payload that it was made of lies. */
export interface SignatureLayer extends Expected {
  readonly signature: Uint8Array;
}

/**
 * The signatures that an image holds; layers of other kinds are passed over.
 * @throws AgentError E_INVALID, E_LIMIT
 */
export function readSignatures(raw: RawManifest, name: string): SignatureLayer[] {
  const layers = layersOf(raw, name).filter(({ mediaType }) => mediaType === payloadType);
  if (layers.length > mostSignatures) {
    throw new AgentError("E_LIMIT", `${name} has ${layers.length} signatures; ${mostSignatures} are looked at`);
  }
  return layers.map(({ digest, size, annotations }) => {
    if (size > largestPayloadBytes) throw new AgentError("E_LIMIT", `${name} has a signed payload of ${size} bytes`);
    return { digest, size, signature: Buffer.from(annotations?.[signatureAnnotation] ?? "", "base64") };
  });
}

/** A content to store with a manifest. */
export interface StoredBlob extends Expected {
  readonly bytes: Buffer;
}

/**
 * The image with one more signature.
 * @param before the image that is there; its signatures stay
 * @throws AgentError E_INVALID if that one is no image
 */
export function withSignature(
  before: RawManifest | undefined,
  payload: Buffer,
  signature: Uint8Array,
): { manifest: TypedManifest; blobs: StoredBlob[] } {
  const annotations = { [signatureAnnotation]: Buffer.from(signature).toString("base64") };
  const added = { mediaType: payloadType, digest: digestOf(payload), size: payload.length, annotations };
  const layers = [...(before === undefined ? [] : layersOf(before, "the image of the signatures")), added];
  const config = Buffer.from(
    JSON.stringify({
      architecture: "",
      os: "",
      rootfs: { type: "layers", diff_ids: layers.map(({ digest }) => digest) },
      config: {},
    }),
  );
  const manifest = {
    schemaVersion: 2,
    mediaType: imageManifestType,
    config: { mediaType: configType, digest: digestOf(config), size: config.length },
    layers,
  };
  const blob = (bytes: Buffer): StoredBlob => ({ digest: digestOf(bytes), size: bytes.length, bytes });
  return {
    manifest: { bytes: Buffer.from(JSON.stringify(manifest)), mediaType: imageManifestType },
    blobs: [blob(payload), blob(config)],
  };
}

function layersOf(raw: RawManifest, name: string) {
  const read = readManifest(raw, name);
  if (!("image" in read)) throw new AgentError("E_INVALID", `${name} is an index, no image with signatures`);
  return read.image.layers;
}
