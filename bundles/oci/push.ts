import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { createHash } from "node:crypto";
import { pipeline } from "node:stream/promises";
import { digestOf, type Digest } from "./digest.ts";
import { discard, headerOf, resolveUrl } from "./http.ts";
import { bundleArtifactType, imageManifestType, titleAnnotation } from "./image.ts";
import type { RegistryReference } from "./reference.ts";
import { openRegistry, type Registry, type RegistryOptions } from "./registry.ts";

/** A file that becomes a layer. */
export interface PushedFile {
  /** Path inside the bundle. */
  readonly title: string;
  readonly path: string;
}

// The OCI image specification's "guidance for an empty descriptor".
const emptyConfig = Buffer.from("{}");
const emptyConfigType = "application/vnd.oci.empty.v1+json";

/** Every file of a directory, as a bundle has them. */
export async function filesBelow(directory: string): Promise<PushedFile[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return files.sort().map((path) => ({ title: path.slice(join(directory, "/").length), path }));
}

/**
 * Pushes files as a flasher bundle: an OCI artifact with one titled layer per file, as `oras push` makes it.
 * @returns the digest of its manifest
 */
export async function pushBundle(
  reference: RegistryReference,
  files: readonly PushedFile[],
  options: RegistryOptions & { signal: AbortSignal },
): Promise<Digest> {
  const { signal } = options;
  const registry = openRegistry(reference, { ...options, actions: "pull,push" });
  try {
    const config = { mediaType: emptyConfigType, digest: digestOf(emptyConfig), size: emptyConfig.length };
    await pushBlob(registry, config.digest, { size: config.size, open: () => emptyConfig }, signal);
    const layers = [];
    for (const { title, path } of files) {
      const hash = createHash("sha256");
      await pipeline(createReadStream(path), hash, { signal });
      const digest: Digest = `sha256:${hash.digest("hex")}`;
      const { size } = await stat(path);
      await pushBlob(registry, digest, { size, open: () => createReadStream(path) }, signal);
      const mediaType = /\.ya?ml$/.test(title) ? "application/yaml" : "application/octet-stream";
      layers.push({ mediaType, digest, size, annotations: { [titleAnnotation]: title } });
    }
    const manifest = {
      schemaVersion: 2,
      mediaType: imageManifestType,
      artifactType: bundleArtifactType,
      config,
      layers,
    };
    const body = Buffer.from(JSON.stringify(manifest));
    const path = `manifests/${reference.tag}`;
    const answer = await registry.send({
      method: "PUT",
      path,
      headers: { "content-type": imageManifestType },
      body,
      signal,
    });
    if (answer.status !== 201) throw await registry.refusal(answer, `the manifest of ${reference.repository}`, signal);
    discard(answer);
    return digestOf(body);
  } finally {
    await registry.close();
  }
}

type Content = { readonly size: number; readonly open: () => Buffer | ReturnType<typeof createReadStream> };

async function pushBlob(registry: Registry, digest: Digest, content: Content, signal: AbortSignal): Promise<void> {
  const there = await registry.send({ method: "HEAD", path: `blobs/${digest}`, signal });
  discard(there);
  if (there.status === 200) return;
  const begun = await registry.send({ method: "POST", path: "blobs/uploads/", signal });
  const location = headerOf(begun, "location");
  if (begun.status !== 202 || location === undefined) throw await registry.refusal(begun, "an upload", signal);
  discard(begun);
  const url = resolveUrl(location, registry.root);
  url.searchParams.set("digest", digest);
  const headers = { "content-type": "application/octet-stream", "content-length": String(content.size) };
  const done = await registry.send({ method: "PUT", path: url, headers, body: content.open(), signal });
  if (done.status !== 201) throw await registry.refusal(done, `blob ${digest}`, signal);
  discard(done);
}
