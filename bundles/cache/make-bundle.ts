import { mkdir, rm } from "node:fs/promises";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import { makeDirectoryDurably, syncTree, writeDurably } from "../../agent/stream/durable.ts";
import { forEachBounded } from "../oci/bounded.ts";
import { verify, type Digest, type Expected } from "../oci/digest.ts";
import { chooseImage, planLayers, readManifest, type Layer } from "../oci/image.ts";
import { withRetries } from "../oci/retry.ts";
import type { Source } from "../oci/source.ts";
import { Unpacker } from "../unpack.ts";
import type { BlobStore } from "./blob-store.ts";
import type { BundleRecord } from "./records.ts";

export interface StoredManifest extends Expected {
  readonly bytes: Uint8Array;
  readonly mediaType: string;
}

export interface Plan {
  readonly digest: Digest;
  /** The image's manifest. */
  readonly image: Digest;
  /** The image's manifest, and the indexes that led to it. */
  readonly manifests: readonly StoredManifest[];
  readonly layers: readonly Layer[];
  /** Everything that the manifests name for this image, each once. */
  readonly blobs: readonly Expected[];
  /** Of manifests and blobs. */
  readonly totalBytes: number;
}

export interface Asked {
  readonly source: Source;
  /** What errors call the bundle. */
  readonly name: string;
  readonly signal: AbortSignal;
}

const mostDownloads = 3;
/** Signatures are small. */
const mostBytesBeside = 16 * 1024 * 1024;
const deepestIndex = 3;

/**
 * Reads an image's manifest, through an index if there is one; nothing is written.
 * @throws AgentError E_DIGEST, E_INVALID, E_LIMIT, E_CONNECTION, E_TIMEOUT
 */
export async function planBundle(digest: Digest, { source, name, signal }: Asked, mostBytes: number): Promise<Plan> {
  const manifests: StoredManifest[] = [];
  let wanted = digest;
  while (manifests.length < deepestIndex) {
    const { read, ...manifest } = await fetchManifest(wanted, { source, name, signal });
    manifests.push(manifest);
    if ("index" in read) {
      wanted = chooseImage(read.index, hostPlatform(), name).digest;
      continue;
    }
    const layers = planLayers(read.image, name, mostBytes);
    const { config } = read.image;
    const blobs = eachOnce(config === undefined ? layers : [config, ...layers]);
    const totalBytes = [...manifests, ...blobs].reduce((sum, { size }) => sum + size, 0);
    return { digest, image: wanted, manifests, layers, blobs, totalBytes };
  }
  throw new AgentError("E_INVALID", `${name} is an index of indexes of indexes`);
}

/** @throws AgentError E_DIGEST, E_INVALID, E_CONNECTION, E_TIMEOUT */
async function fetchManifest(digest: Digest, { source, name, signal }: Asked) {
  const raw = await withRetries(() => source.manifest(digest, signal), { signal });
  verify(raw.bytes, digest, `the manifest of ${name}`);
  const read = readManifest(raw, name);
  return { digest, size: raw.bytes.length, bytes: raw.bytes, mediaType: read.mediaType, read };
}

/**
 * Stores an image, such as a signature, with its blobs.
 * @returns all of it, for the record of the bundle that it is kept beside
 */
export async function fetchBeside(digest: Digest, store: BlobStore, asked: Asked): Promise<BundleRecord["blobs"]> {
  const { read, bytes, mediaType, size } = await fetchManifest(digest, asked);
  const { layers = [], config } = "image" in read ? read.image : {};
  const blobs = eachOnce(config === undefined ? layers : [config, ...layers]);
  const totalBytes = blobs.reduce((sum, blob) => sum + blob.size, 0);
  if (totalBytes > mostBytesBeside) {
    throw new AgentError("E_LIMIT", `what is to be kept beside ${asked.name} has ${totalBytes} bytes`);
  }
  await store.put(bytes, { digest, size }, asked.signal);
  for (const blob of blobs) await store.fetch(blob, asked);
  return [{ digest, size, mediaType }, ...blobs];
}

function eachOnce(blobs: readonly Expected[]): Expected[] {
  return [...new Map(blobs.map(({ digest, size }) => [digest, { digest, size }])).values()];
}

/** Fetches what a plan names into the store. @throws AgentError as {@link BlobStore.fetch} */
export async function fetchPlanned(
  { manifests, blobs, layers }: Plan,
  store: BlobStore,
  { source, name, signal, onProgress }: Asked & { readonly onProgress: (bytes: number) => void },
): Promise<void> {
  const titles = new Map(
    layers.map(({ digest, kind, path }) => [digest, kind === "file" ? path : `archive ${digest}`]),
  );
  const here = new Map<Digest, number>();
  for (const { bytes, digest, size } of manifests) await store.put(bytes, { digest, size }, signal);
  await forEachBounded(blobs, { most: mostDownloads, signal }, async (blob, anySignal) => {
    await store.fetch(blob, {
      source,
      name: `${name}: ${titles.get(blob.digest) ?? "config"}`,
      signal: anySignal,
      onProgress: (bytes) => {
        here.set(blob.digest, bytes);
        onProgress([...here.values()].reduce((sum, some) => sum + some, 0));
      },
    });
  });
  await store.sync();
}

/** A manifest of the same place as the bundle, and the tag that leads to it. */
export interface TaggedManifest {
  readonly tag: string;
  readonly digest: Digest;
}

/** What is kept with a bundle: by which tags it is found, and all that it consists of. */
export interface Beside {
  readonly tags: Record<string, Digest>;
  readonly blobs: BundleRecord["blobs"];
}

/**
 * Lays a bundle out in a new directory, from blobs that are in the store, and puts it on the disk.
 * @returns its record, which lies beside its files
 */
export async function layOut(
  plan: Plan,
  {
    into,
    blobPath,
    beside,
    mostBytes,
    name,
    signal,
  }: {
    into: string;
    blobPath: (digest: Digest) => string;
    beside: Beside;
    mostBytes: number;
    name: string;
    signal: AbortSignal;
  },
): Promise<BundleRecord> {
  const files = join(into, "files");
  await rm(into, { recursive: true, force: true });
  await makeDirectoryDurably(into);
  await mkdir(files);
  const unpacker = new Unpacker(files, mostBytes);
  for (const layer of plan.layers) {
    signal.throwIfAborted();
    const path = blobPath(layer.digest);
    if (layer.kind === "file") await unpacker.link(layer, path);
    else await unpacker.archive(layer, createReadStream(path), `${name}: archive ${layer.digest}`, signal);
  }
  const manifests = plan.manifests.map(({ digest, size, mediaType }) => ({ digest, size, mediaType }));
  const blobs = [...manifests, ...plan.blobs, ...beside.blobs];
  const record: BundleRecord = { image: plan.image, blobs, beside: beside.tags, files: unpacker.files };
  await writeDurably(join(into, "bundle.json"), JSON.stringify(record));
  await syncTree(into);
  return record;
}

/** This host in the words of the OCI specification. */
function hostPlatform(): string {
  const names: Partial<Record<string, string>> = { x64: "amd64", ia32: "386" };
  return `linux/${names[process.arch] ?? process.arch}`;
}
