import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import type { ContentEncoding } from "../../agent/driver/resource.ts";
import { confinedPath } from "../paths.ts";
import { isDigest, type Digest, type Expected } from "./digest.ts";

export const bundleArtifactType = "application/vnd.oci.bundle.v1";
export const imageManifestType = "application/vnd.oci.image.manifest.v1+json";
export const imageIndexType = "application/vnd.oci.image.index.v1+json";
export const titleAnnotation = "org.opencontainers.image.title";
export const refNameAnnotation = "org.opencontainers.image.ref.name";
/** How containerd calls the complete reference in an index of a layout. */
export const imageNameAnnotation = "io.containerd.image.name";

const manifestTypes = new Set([imageManifestType, "application/vnd.docker.distribution.manifest.v2+json"]);
const indexTypes = new Set([imageIndexType, "application/vnd.docker.distribution.manifest.list.v2+json"]);
/** Media types of layers that are archives, and how these are packed. */
const archiveTypes = new Map<string, ContentEncoding | null>([
  ["application/vnd.oci.image.layer.v1.tar", null],
  ["application/vnd.oci.image.layer.v1.tar+gzip", "gzip"],
  ["application/vnd.oci.image.layer.v1.tar+zstd", "zstd"],
  ["application/vnd.docker.image.rootfs.diff.tar", null],
  ["application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"],
  ["application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd"],
]);
/** "true" if `oras` made the layer of a directory. */
const unpackAnnotation = "io.deis.oras.content.unpack";

export const acceptedManifestTypes = [...manifestTypes, ...indexTypes];

/** The distribution specification asks registries to take manifests up to 4 MiB; no more is read of one. */
export const largestManifestBytes = 4 * 1024 * 1024;
/** Of an image; more is no bundle. */
export const mostLayers = 1000;

const digest = z.string().refine((text): text is Digest => isDigest(text), "not a sha256 or sha512 digest");
const annotations = z.record(z.string(), z.string()).nullish();
const descriptor = z.object({
  mediaType: z.string(),
  digest: digest as unknown as z.ZodType<Digest>,
  size: z.int().min(0),
  annotations,
});
const indexEntry = descriptor.extend({
  artifactType: z.string().optional(),
  platform: z.object({ os: z.string(), architecture: z.string() }).optional(),
});
const imageManifest = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  artifactType: z.string().optional(),
  config: descriptor.optional(),
  layers: z.array(descriptor).max(mostLayers),
});
const imageIndex = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  manifests: z.array(indexEntry).max(mostLayers),
});

export type IndexEntry = z.output<typeof indexEntry>;
export type ImageManifest = z.output<typeof imageManifest>;
export type ImageIndex = z.output<typeof imageIndex>;

/** Bytes of a manifest or index with the media type under which they came, if it was told. */
export interface RawManifest {
  readonly bytes: Uint8Array;
  readonly mediaType: string | undefined;
}

/** A manifest or index of which it is known which of the two it is. */
export interface TypedManifest extends RawManifest {
  readonly mediaType: string;
}

/**
 * Reads a manifest or an index, whichever it says it is.
 * @throws AgentError E_INVALID if it is neither, or its media type and content disagree
 */
export function readManifest(
  raw: RawManifest,
  name: string,
): { mediaType: string } & ({ image: ImageManifest } | { index: ImageIndex }) {
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(raw.bytes));
  } catch {
    throw new AgentError("E_INVALID", `the manifest of ${name} is not JSON`);
  }
  const inside = (document as { mediaType?: unknown } | null)?.mediaType;
  const declared = typeof inside === "string" ? inside : undefined;
  const mediaType = raw.mediaType ?? declared;
  if (mediaType === undefined || (declared !== undefined && declared !== mediaType)) {
    const said = `${raw.mediaType ?? "nothing"} outside and ${declared ?? "nothing"} inside`;
    throw new AgentError("E_INVALID", `the manifest of ${name} has no clear media type: ${said}`);
  }
  if (manifestTypes.has(mediaType)) return { mediaType, image: check(imageManifest, document, name) };
  if (indexTypes.has(mediaType)) return { mediaType, index: check(imageIndex, document, name) };
  throw new AgentError(
    "E_INVALID",
    `the manifest of ${name} has media type ${JSON.stringify(mediaType.slice(0, 100))}`,
  );
}

function check<S extends z.ZodType>(schema: S, document: unknown, name: string): z.output<S> {
  const parsed = schema.safeParse(document);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.slice(0, 5).map((issue) => `${issue.path.join(".")}: ${issue.message}`);
  throw new AgentError("E_INVALID", `the manifest of ${name} is malformed: ${problems.join("; ")}`);
}

/**
 * Picks the image of an index: the only one, or the only flasher bundle, or the one for this platform.
 * @param platform `os/architecture` in the words of the OCI specification, e.g. `linux/arm64`
 * @throws AgentError E_INVALID if none or several fit
 */
export function chooseImage(index: ImageIndex, platform: string, name: string): IndexEntry {
  const images = index.manifests.filter((entry) => entry.platform?.os !== "unknown");
  const bundles = images.filter((entry) => entry.artifactType === bundleArtifactType);
  const fitting = images.filter((entry) => platformOf(entry) === platform);
  for (const candidates of [images, bundles, fitting]) {
    const [only, ...others] = candidates;
    if (only !== undefined && others.length === 0) return only;
  }
  const offered = images.map((entry) => platformOf(entry) ?? "no platform").join(", ");
  throw new AgentError("E_INVALID", `the index of ${name} has no single image for ${platform}; it offers: ${offered}`);
}

function platformOf({ platform }: IndexEntry): string | undefined {
  return platform === undefined ? undefined : `${platform.os}/${platform.architecture}`;
}

/** A layer and where it goes inside the bundle. */
export interface Layer extends Expected {
  /** `file`: the file's path; `archive`: the directory to unpack into, empty for the bundle's root. */
  readonly path: string;
  readonly kind: "file" | "archive";
  /** How an archive is packed. */
  readonly encoding: ContentEncoding | null;
}

/**
 * Where each layer of an image goes. Titles are the file names; a layer without one is named by its digest.
 * @throws AgentError E_INVALID for a title that leads out of the bundle or is given twice, E_LIMIT if it is too large
 */
export function planLayers(image: ImageManifest, name: string, mostBytes: number): Layer[] {
  const taken = new Set<string>();
  const layers = image.layers.map(({ mediaType, annotations, digest, size }): Layer => {
    const title = annotations?.[titleAnnotation] ?? digest.replace(":", "-");
    const path = confinedPath(title);
    if (path === undefined) {
      throw new AgentError(
        "E_INVALID",
        `${name} has a layer titled ${JSON.stringify(title.slice(0, 200))}, which is no path inside the bundle`,
      );
    }
    const encoding = archiveTypes.get(mediaType);
    // `oras push FILE` calls any file without a type of its own a plain tar.
    const isFile = encoding === null && annotations?.[titleAnnotation] && annotations[unpackAnnotation] !== "true";
    if (encoding !== undefined && !isFile) {
      return { kind: "archive", path: path.slice(0, Math.max(0, path.lastIndexOf("/"))), encoding, digest, size };
    }
    if (taken.has(path)) throw new AgentError("E_INVALID", `${name} has two layers titled ${JSON.stringify(path)}`);
    taken.add(path);
    return { kind: "file", path, encoding: null, digest, size };
  });
  const total = layers.reduce((sum, { size }) => sum + size, 0);
  if (total > mostBytes) {
    throw new AgentError("E_LIMIT", `${name} has ${total} bytes; a bundle may have ${mostBytes}`);
  }
  return layers;
}
