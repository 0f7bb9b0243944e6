import { open } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import type { Digest } from "./digest.ts";
import { largestManifestBytes, readManifest, refNameAnnotation, imageIndexType } from "./image.ts";
import { formatReference, type LayoutReference } from "./reference.ts";
import type { Source } from "./source.ts";

/** Reads an OCI image layout, as `oras`, `skopeo` and `podman save --format oci-dir` write it. */
export function layoutSource(reference: LayoutReference): Source {
  const name = formatReference(reference);
  const blobPath = (digest: Digest) => join(reference.directory, "blobs", ...digest.split(":"));
  return {
    resolve: async () => {
      const bytes = await readBounded(join(reference.directory, "index.json"), name);
      const read = readManifest({ bytes, mediaType: imageIndexType }, name);
      const entries = "index" in read ? read.index.manifests : [];
      const wanted = reference.tag ?? "latest";
      const tagged = entries.filter((entry) => entry.annotations?.[refNameAnnotation] === wanted);
      const candidates = tagged.length === 0 && reference.tag === undefined ? entries : tagged;
      const [only, ...others] = candidates;
      if (only === undefined || others.length > 0) {
        throw new AgentError("E_INVALID", `${name} has ${candidates.length} images for the tag ${wanted}; name one`);
      }
      return only.digest;
    },
    manifest: async (digest) => ({ bytes: await readBounded(blobPath(digest), name), mediaType: undefined }),
    blob: async ({ digest }, { from = 0 }): Promise<Readable> => {
      const file = await open(blobPath(digest)).catch((error: unknown) => missing(error, `${name}: blob ${digest}`));
      return file.createReadStream({ start: from });
    },
    close: async () => {},
  };
}

async function readBounded(path: string, name: string): Promise<Uint8Array> {
  const file = await open(path).catch((error: unknown) => missing(error, name));
  try {
    const { size } = await file.stat();
    if (size > largestManifestBytes)
      throw new AgentError("E_LIMIT", `${path} has ${size} bytes, too many for a manifest`);
    return await file.readFile();
  } finally {
    await file.close();
  }
}

function missing(error: unknown, name: string): never {
  if (isSystemError(error) && (error.code === "ENOENT" || error.code === "ENOTDIR")) {
    throw new AgentError("E_INVALID", `${name} does not exist or is no OCI image layout`, { cause: error });
  }
  throw error;
}
