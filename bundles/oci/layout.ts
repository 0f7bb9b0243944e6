import { open } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { isSignatureTag, type Digest } from "./digest.ts";
import {
  largestManifestBytes,
  readManifest,
  refNameAnnotation,
  imageIndexType,
  imageNameAnnotation,
  type IndexEntry,
} from "./image.ts";
import { formatReference, type LayoutReference } from "./reference.ts";
import type { Source } from "./source.ts";

/** What holds the files of an image layout: a directory, or an archive. */
export interface LayoutFiles {
  /** What errors call it. */
  readonly name: string;
  /** All of a file of no more than {@link largestManifestBytes}. @param path inside the layout */
  read(path: string): Promise<Uint8Array>;
  /** A file without its first `from` bytes. */
  stream(path: string, from: number): Promise<Readable>;
  close(): Promise<void>;
}

export interface LayoutSource extends Source {
  /** What an image of the layout is called elsewhere, if `index.json` tells. */
  referenceOf(digest: Digest): Promise<string | undefined>;
}

/** Reads an OCI image layout, as `oras`, `skopeo` and `podman save --format oci-dir` write it. */
export function layoutSource(reference: LayoutReference): LayoutSource {
  return sourceOfLayout(directoryFiles(reference.directory, formatReference(reference)), reference.tag);
}

/** @param tag undefined means: the only image, or else `latest` */
export function sourceOfLayout(files: LayoutFiles, tag: string | undefined): LayoutSource {
  const { name } = files;
  const pathOf = (digest: Digest) => join("blobs", ...digest.split(":"));
  const entries = async () => {
    const read = readManifest({ bytes: await files.read("index.json"), mediaType: imageIndexType }, name);
    return "index" in read ? read.index.manifests : [];
  };
  return {
    resolve: async () => {
      const all = await entries();
      const wanted = tag ?? "latest";
      const tagged = all.filter((entry) => tagOf(entry) === wanted);
      const images = all.filter((entry) => !isSignatureTag(tagOf(entry) ?? ""));
      const candidates = tagged.length === 0 && tag === undefined ? images : tagged;
      const [only, ...others] = candidates;
      if (only === undefined || others.length > 0) {
        throw new AgentError("E_INVALID", `${name} has ${candidates.length} images for the tag ${wanted}; name one`, {
          hint: `it has these tags: ${images.map(tagOf).join(", ")}`,
        });
      }
      return only.digest;
    },
    referenceOf: async (digest) =>
      (await entries()).find((entry) => entry.digest === digest)?.annotations?.[imageNameAnnotation],
    tagged: async (wanted) => {
      const [only, ...others] = (await entries()).filter((entry) => tagOf(entry) === wanted);
      if (others.length > 0) throw new AgentError("E_INVALID", `${name} has several images for the tag ${wanted}`);
      return only?.digest;
    },
    manifest: async (digest) => ({ bytes: await files.read(pathOf(digest)), mediaType: undefined }),
    blob: async ({ digest }, { from = 0 }) => await files.stream(pathOf(digest), from),
    close: () => files.close(),
  };
}

const tagOf = ({ annotations }: IndexEntry): string | undefined => annotations?.[refNameAnnotation];

function directoryFiles(directory: string, name: string): LayoutFiles {
  const openFile = async (path: string) =>
    await open(join(directory, path)).catch((error: unknown) => {
      if (!isSystemError(error) || (error.code !== "ENOENT" && error.code !== "ENOTDIR")) throw error;
      const missing = path.startsWith("blobs/") ? `has no ${path}` : "does not exist or is no OCI image layout";
      throw new AgentError("E_INVALID", `${name} ${missing}`, { cause: error });
    });
  return {
    name,
    read: async (path) => {
      const file = await openFile(path);
      try {
        checkManifestSize((await file.stat()).size, `${path} of ${name}`);
        return await file.readFile();
      } finally {
        await file.close();
      }
    },
    stream: async (path, from) => (await openFile(path)).createReadStream({ start: from }),
    close: () => Promise.resolve(),
  };
}

/** @throws AgentError E_LIMIT */
export function checkManifestSize(bytes: number, name: string): void {
  if (bytes <= largestManifestBytes) return;
  throw new AgentError("E_LIMIT", `${name} has ${bytes} bytes, too many for a manifest`);
}
