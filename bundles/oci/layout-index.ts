import { AgentError } from "../../agent/driver/errors.ts";
import type { Digest } from "./digest.ts";
import type { ImageName } from "./sink.ts";
import { imageIndexType, imageNameAnnotation, readManifest, refNameAnnotation, type TypedManifest } from "./image.ts";

// The OCI image layout specification, 1.0.0.
export const layoutMarkFile = "oci-layout";
export const layoutMark = JSON.stringify({ imageLayoutVersion: "1.0.0" });

/** An image that `index.json` names. */
export interface LayoutEntry {
  readonly raw: TypedManifest;
  readonly digest: Digest;
  readonly named: ImageName;
}

type IndexDocument = { manifests: { annotations?: Record<string, string> }[] };

/**
 * The text of `index.json` with more images, or others under their tags; all else stays as others wrote it.
 * @param before its text; undefined if there is none yet
 * @throws AgentError E_INVALID if it is no index
 */
export function indexWith(before: string | undefined, entries: readonly LayoutEntry[], name: string): string {
  const index = before === undefined ? undefined : readIndex(before, name);
  const tags = new Set(entries.map(({ named }) => named.tag));
  const others = index?.manifests.filter(({ annotations }) => !tags.has(annotations?.[refNameAnnotation] ?? "")) ?? [];
  const manifests = [...others, ...entries.map(describe)];
  return JSON.stringify({ schemaVersion: 2, mediaType: imageIndexType, ...index, manifests }, undefined, 2) + "\n";
}

function describe({ raw, digest, named }: LayoutEntry): object {
  const { artifactType } = JSON.parse(Buffer.from(raw.bytes).toString("utf8")) as Record<string, unknown>;
  return {
    mediaType: raw.mediaType,
    digest,
    size: raw.bytes.length,
    ...(typeof artifactType === "string" ? { artifactType } : {}),
    annotations: {
      [refNameAnnotation]: named.tag,
      ...(named.reference === undefined ? {} : { [imageNameAnnotation]: named.reference }),
    },
  };
}

function readIndex(text: string, name: string): IndexDocument {
  const read = readManifest({ bytes: Buffer.from(text), mediaType: imageIndexType }, name);
  if ("image" in read) throw new AgentError("E_INVALID", `${name} is no image index`);
  return JSON.parse(text) as IndexDocument;
}
