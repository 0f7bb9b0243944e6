import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { artifactOf, type ArtifactFile } from "./artifact.ts";
import { copyImage } from "./copy.ts";
import type { Digest } from "./digest.ts";
import { formatReference, type RegistryReference } from "./reference.ts";
import type { RegistryOptions } from "./registry.ts";
import { openRegistrySink } from "./registry-sink.ts";

/** Every file of a directory. */
export async function filesBelow(directory: string): Promise<ArtifactFile[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return files.map((path) => ({ title: path.slice(join(directory, "/").length), path }));
}

/**
 * Pushes files as a flasher bundle, whatever they are.
 * @returns the digest of its manifest
 */
export async function pushBundle(
  reference: RegistryReference,
  files: readonly ArtifactFile[],
  options: RegistryOptions & { signal: AbortSignal },
): Promise<Digest> {
  const { signal } = options;
  const { source, digest } = await artifactOf(files, signal);
  const sink = openRegistrySink(reference, options);
  try {
    await copyImage(source, digest, sink, { name: formatReference(reference), named: { tag: reference.tag }, signal });
    await sink.finish();
    return digest;
  } finally {
    await sink.close();
  }
}
