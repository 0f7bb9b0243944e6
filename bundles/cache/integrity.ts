import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { lstat, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import { checkFile } from "../files.ts";
import type { Digest, Expected } from "../oci/digest.ts";
import type { Places } from "./places.ts";
import { bundleRecord, damages, readRecord, type BundleRecord } from "./records.ts";

/** A file of the cache that is not what it should be. */
export interface Damage {
  /** Path in the bundle, or the digest of a blob. */
  readonly name: string;
  readonly error: AgentError;
}

/** Reads every byte of a bundle and compares. @returns what is wrong; nothing if all is well */
export async function findDamages(places: Places, digest: Digest, record: BundleRecord): Promise<Damage[]> {
  const found: Damage[] = [];
  const good = new Set<string>();
  const check = async (name: string, path: string, expected: Expected) => {
    try {
      // A file and its blob are one: it is read once.
      const { dev, ino } = await lstat(path);
      const seen = `${dev}:${ino}:${expected.digest}`;
      if (good.has(seen)) return;
      await checkFile(path, expected, name);
      good.add(seen);
    } catch (error) {
      if (isSystemError(error) && !damages.has(error.code)) throw error;
      found.push({ name, error: toAgentError(error) });
    }
  };
  for (const file of record.files) await check(file.path, join(places.bundle(digest), "files", file.path), file);
  for (const blob of record.blobs) await check(blob.digest, places.blob(blob.digest), blob);
  return found;
}

/**
 * Says that all of a bundle was read and found good since this host started, as long as nobody changes its files.
 * A disk that forgets does so when the power goes.
 */
export class Seals {
  readonly #places: Places;
  readonly #bootId: string;
  /** What cannot be written, in a read-only cache, is known at least to this process. */
  readonly #here = new Map<Digest, string>();

  constructor(places: Places, bootId = hostBootId()) {
    this.#places = places;
    this.#bootId = bootId;
  }

  async isSealed(digest: Digest, record: BundleRecord): Promise<boolean> {
    const seal = await this.#sealOf(digest, record);
    if (seal === undefined) return false;
    if (this.#here.get(digest) === seal) return true;
    return (await readFile(this.#path(digest), "utf8").catch(() => "")) === seal;
  }

  async seal(digest: Digest, record: BundleRecord): Promise<void> {
    const seal = await this.#sealOf(digest, record);
    if (seal === undefined) return;
    this.#here.set(digest, seal);
    // Torn or missing it only costs time.
    await writeFile(this.#path(digest), seal).catch(() => {});
  }

  /** @returns undefined if a file is missing */
  async #sealOf(digest: Digest, { files, blobs }: BundleRecord): Promise<string | undefined> {
    const hash = createHash("sha256").update(this.#bootId);
    const paths = [
      ...files.map(({ path }) => join(this.#places.bundle(digest), "files", path)),
      ...blobs.map((blob) => this.#places.blob(blob.digest)),
    ];
    try {
      for (const path of paths) {
        const { ino, size, mtimeMs } = await lstat(path);
        hash.update(`${ino} ${size} ${mtimeMs}\n`);
      }
    } catch (error) {
      if (isSystemError(error) && !damages.has(error.code)) throw error;
      return undefined;
    }
    return hash.digest("hex");
  }

  #path(digest: Digest): string {
    return join(this.#places.bundle(digest), "checked");
  }
}

/** @returns the bundle's record; undefined if there is no such bundle here, or none that can be read */
export async function recordOf(places: Places, digest: Digest): Promise<BundleRecord | undefined> {
  return await readRecord(join(places.bundle(digest), "bundle.json"), bundleRecord);
}

/** Other at each start of the host. */
function hostBootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    // Nobody knows when this host started: each process reads anew.
    return `process ${process.pid} of ${Date.now()}`;
  }
}
