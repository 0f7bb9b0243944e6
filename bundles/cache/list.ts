import { lstat } from "node:fs/promises";
import { join } from "node:path";
import type { Digest } from "../oci/digest.ts";
import { recordOf } from "./integrity.ts";
import type { Locks } from "./locks.ts";
import { changedMs, digestsIn, exists, lockNames, namesIn, type Places } from "./places.ts";
import { readRecord, referenceRecord, type ReferenceRecord } from "./records.ts";

/** What people are told of a bundle in the cache. */
export interface ListedBundle {
  readonly digest: Digest;
  /** The manifest of the image that was chosen; other than the digest where that is an index. */
  readonly image: Digest;
  readonly directory: string;
  /** Of all that it consists of; bundles that share blobs take less together. */
  readonly sizeBytes: number;
  readonly files: number;
  readonly usedAt: Date;
  readonly isPinned: boolean;
  /** By any process of this host. */
  readonly isInUse: boolean;
  /** Which references led to it, and when they were last asked for. */
  readonly references: readonly { readonly name: string; readonly checkedAt: Date }[];
}

/** All bundles of a cache, the one used last first. */
export async function listBundles(places: Places, locks: Locks): Promise<ListedBundle[]> {
  const references: ReferenceRecord[] = [];
  for (const name of await namesIn(places.references)) {
    const record = await readRecord(join(places.references, name), referenceRecord);
    if (record !== undefined) references.push(record);
  }
  const bundles: ListedBundle[] = [];
  for (const digest of await digestsIn(places.bundles)) {
    const record = await recordOf(places, digest);
    if (record === undefined) continue;
    const directory = join(places.bundle(digest), "files");
    const paths = [
      ...record.blobs.map((blob) => places.blob(blob.digest)),
      ...record.files.map((file) => join(directory, file.path)),
    ];
    bundles.push({
      digest,
      image: record.image,
      directory,
      sizeBytes: await bytesOf(paths),
      files: record.files.length,
      usedAt: new Date(await changedMs(join(places.bundle(digest), "bundle.json"))),
      isPinned: await exists(places.pin(digest)),
      isInUse: await isInUse(locks, digest),
      references: references
        .filter((one) => one.digest === digest)
        .map(({ reference, checked }) => ({ name: reference, checkedAt: new Date(checked) })),
    });
  }
  return bundles.sort((a, b) => b.usedAt.getTime() - a.usedAt.getTime());
}

async function bytesOf(paths: readonly string[]): Promise<number> {
  const sizes = new Map<number, number>();
  for (const path of paths) {
    const found = await lstat(path).catch(() => undefined);
    if (found !== undefined) sizes.set(found.ino, found.size);
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

async function isInUse(locks: Locks, digest: Digest): Promise<boolean> {
  try {
    const lock = await locks.tryAcquire(lockNames.use(digest), "exclusive");
    await lock?.release();
    return lock === undefined;
  } catch {
    // Where nothing can be written, nothing can be locked either.
    return false;
  }
}
