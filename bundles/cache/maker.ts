import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "../../agent/driver/log.ts";
import { makeDirectoryDurably, syncDirectory, writeDurably } from "../../agent/stream/durable.ts";
import type { Digest } from "../oci/digest.ts";
import { BlobStore } from "./blob-store.ts";
import { formatBytes } from "./bytes.ts";
import type { Seals } from "./integrity.ts";
import type { Lock, Locks } from "./locks.ts";
import {
  fetchBeside,
  fetchPlanned,
  layOut,
  planBundle,
  type Asked,
  type Beside,
  type TaggedManifest,
} from "./make-bundle.ts";
import { lockNames, nameOf, type Places } from "./places.ts";
import type { BundleRecord } from "./records.ts";
import type { Space } from "./space.ts";

const tellEveryMs = 10_000;
const sayEveryMs = 500;

interface Workshop {
  readonly log: Logger;
  readonly places: Places;
  readonly locks: Locks;
  readonly space: Space;
  readonly seals: Seals;
  /** Most bytes of one bundle. */
  readonly mostBytes: number;
  /** Most bytes of all bundles. */
  readonly limitBytes: number;
}

/** Brings bundles into the cache. Who calls it holds the lock of the bundle's making. */
export class BundleMaker {
  readonly #log: Logger;
  readonly #places: Places;
  readonly #locks: Locks;
  readonly #space: Space;
  readonly #seals: Seals;
  readonly #store: BlobStore;
  readonly #mostBytes: number;
  readonly #limitBytes: number;

  constructor({ log, places, locks, space, seals, mostBytes, limitBytes }: Workshop) {
    this.#log = log;
    this.#places = places;
    this.#locks = locks;
    this.#space = space;
    this.#seals = seals;
    this.#store = new BlobStore(places, locks);
    this.#mostBytes = Math.min(mostBytes, limitBytes);
    this.#limitBytes = limitBytes;
  }

  /**
   * Fetches a bundle and gives it its name when all of it is on the disk.
   * @param making the lock that the caller holds, which tells those who wait how far it is
   * @throws AgentError E_DIGEST, E_INVALID, E_LIMIT, E_CONNECTION; system errors of the disk
   */
  async make(digest: Digest, keep: readonly TaggedManifest[], making: Lock, asked: Asked): Promise<void> {
    const { name, signal } = asked;
    this.#log.info(`pulling ${name} (${digest})`);
    const plan = await planBundle(digest, asked, this.#mostBytes);
    await this.#space.makeRoom(plan.totalBytes, this.#limitBytes, signal);
    const storing = await this.#locks.acquire(lockNames.store, "shared", signal);
    try {
      const onProgress = this.#progress(name, plan.totalBytes, making);
      await fetchPlanned(plan, this.#store, { ...asked, onProgress });
      const beside = await this.#fetchBeside(keep, asked);
      const suffix = await this.#locks.ownSuffix();
      const into = join(this.#places.incoming, `bundle-${nameOf(digest)}${suffix}`);
      try {
        const blobPath = (blob: Digest) => this.#places.blob(blob);
        const record = await layOut(plan, { into, blobPath, beside, mostBytes: this.#mostBytes, name, signal });
        await this.#publish(into, digest);
        await this.#seals.seal(digest, record);
      } finally {
        await rm(into, { recursive: true, force: true });
      }
    } finally {
      await storing.release();
    }
  }

  /** Stores more manifests with a bundle that is here. @throws as `make` */
  async add(digest: Digest, record: BundleRecord, keep: readonly TaggedManifest[], asked: Asked): Promise<void> {
    const storing = await this.#locks.acquire(lockNames.store, "shared", asked.signal);
    try {
      const { tags, blobs } = await this.#fetchBeside(keep, asked);
      const known = new Set(record.blobs.map((blob) => blob.digest));
      const added = {
        ...record,
        beside: { ...record.beside, ...tags },
        blobs: [...record.blobs, ...blobs.filter((blob) => !known.has(blob.digest))],
      };
      await writeDurably(join(this.#places.bundle(digest), "bundle.json"), JSON.stringify(added));
    } finally {
      await storing.release();
    }
  }

  /** Gives a finished bundle its name, in place of one that cannot be read. */
  async #publish(into: string, digest: Digest): Promise<void> {
    await makeDirectoryDurably(this.#places.bundles);
    await this.#space.discard(this.#places.bundle(digest));
    await rename(into, this.#places.bundle(digest));
    await syncDirectory(this.#places.bundles);
  }

  async #fetchBeside(keep: readonly TaggedManifest[], asked: Asked): Promise<Beside> {
    const blobs = [];
    for (const { digest } of keep) blobs.push(...(await fetchBeside(digest, this.#store, asked)));
    await this.#store.sync();
    return { tags: Object.fromEntries(keep.map(({ tag, digest }) => [tag, digest])), blobs };
  }

  /** Tells the log, and now and then those who wait. */
  #progress(name: string, totalBytes: number, making: Lock): (bytes: number) => void {
    let [toldMs, saidMs] = [Date.now(), 0];
    return (bytes) => {
      const nowMs = Date.now();
      const text = `${formatBytes(bytes)} of ${formatBytes(totalBytes)}`;
      if (nowMs - saidMs > sayEveryMs) {
        saidMs = nowMs;
        void making.say(text);
      }
      if (nowMs - toldMs > tellEveryMs) {
        toldMs = nowMs;
        this.#log.info(`pulling ${name}: ${text}`);
      }
    };
  }
}
