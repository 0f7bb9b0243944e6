import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { digestOf, type Digest } from "./digest.ts";
import { bundleArtifactType, imageManifestType, titleAnnotation } from "./image.ts";
import type { Source } from "./source.ts";

/** A file that becomes a layer. */
export interface ArtifactFile {
  /** Path inside the bundle. */
  readonly title: string;
  readonly path: string;
}

/** What an artifact is; by default a flasher bundle, which has no configuration. */
export interface ArtifactKind {
  readonly artifactType: string;
  readonly config: { readonly mediaType: string; readonly bytes: Buffer };
}

const bundleKind: ArtifactKind = {
  artifactType: bundleArtifactType,
  config: { mediaType: "application/vnd.oci.empty.v1+json", bytes: Buffer.from("{}") },
};

/**
 * Files as an OCI artifact with one titled layer per file, as `oras push` makes it. The same files make the same digest, as nothing in it tells
 * when, where or by whom it was made.
 */
export async function artifactOf(
  files: readonly ArtifactFile[],
  signal: AbortSignal,
  { artifactType, config }: ArtifactKind = bundleKind,
): Promise<{ source: Source; digest: Digest }> {
  const paths = new Map<Digest, string>();
  const layers = [];
  for (const { title, path } of [...files].sort(byTitle)) {
    const hash = createHash("sha256");
    let size = 0;
    const measure = async (chunks: AsyncIterable<Buffer>) => {
      for await (const chunk of chunks) {
        hash.update(chunk);
        size += chunk.length;
      }
    };
    await pipeline(createReadStream(path), measure, { signal });
    const digest: Digest = `sha256:${hash.digest("hex")}`;
    paths.set(digest, path);
    const mediaType = /\.ya?ml$/.test(title) ? "application/yaml" : "application/octet-stream";
    layers.push({ mediaType, digest, size, annotations: { [titleAnnotation]: title } });
  }
  const { mediaType, bytes: configBytes } = config;
  // The content as well: readers need not ask for it. The OCI image specification has it so for an empty one.
  const configDescriptor = {
    mediaType,
    digest: digestOf(configBytes),
    size: configBytes.length,
    data: configBytes.toString("base64"),
  };
  const manifest = {
    schemaVersion: 2,
    mediaType: imageManifestType,
    artifactType,
    config: configDescriptor,
    layers,
  };
  const bytes = Buffer.from(JSON.stringify(manifest));
  const digest = digestOf(bytes);
  const source: Source = {
    resolve: () => Promise.resolve(digest),
    tagged: () => Promise.resolve(undefined),
    manifest: () => Promise.resolve({ bytes, mediaType: imageManifestType }),
    blob: (expected, { from = 0 }) => {
      const path = paths.get(expected.digest);
      if (path !== undefined) return Promise.resolve(createReadStream(path, { start: from }));
      if (expected.digest === configDescriptor.digest)
        return Promise.resolve(Readable.from([configBytes.subarray(from)]));
      return Promise.reject(new AgentError("E_INVALID", `the artifact has no blob ${expected.digest}`));
    },
    close: () => Promise.resolve(),
  };
  return { source, digest };
}

/** By code units, whatever the host's language. */
function byTitle(a: ArtifactFile, b: ArtifactFile): number {
  return a.title < b.title ? -1 : a.title > b.title ? 1 : 0;
}
