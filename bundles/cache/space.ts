import { randomBytes } from "node:crypto";
import { lstat, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import { makeDirectoryDurably, syncDirectory } from "../../agent/stream/durable.ts";
import type { Digest } from "../oci/digest.ts";
import { formatBytes } from "./bytes.ts";
import { recordOf } from "./integrity.ts";
import type { Locks } from "./locks.ts";
import { changedMs, digestsIn, exists, lockNames, namesIn, type Places } from "./places.ts";
import { readRecord, referenceRecord } from "./records.ts";

/** Downloads that nobody has continued for so long go; so does what processes have left that cannot be seen. */
const staleAfterMs = 24 * 3600_000;

export interface Eviction {
  /** Bundles go, the one not used for longest first, until the cache has no more bytes. */
  readonly untilBytes: number;
  /** These bundles stay, and pinned ones, and those in use. */
  readonly keep?: (bundle: { digest: Digest; usedMs: number }) => boolean;
}

/** What the cache takes on the disk, and who has to go. */
export class Space {
  readonly #places: Places;
  readonly #locks: Locks;

  constructor(places: Places, locks: Locks) {
    this.#places = places;
    this.#locks = locks;
  }

  /** Bytes of all that is here; what is one file under several names counts once. */
  async usedBytes(): Promise<number> {
    const seen = new Map<string, number>();
    const { root, bundles, incoming } = this.#places;
    for (const directory of [join(root, "blobs"), bundles, incoming]) await countBelow(directory, seen);
    return [...seen.values()].reduce((sum, size) => sum + size, 0);
  }

  /**
   * Makes room before something comes in. Waits for pulls under way if bundles have to go.
   * @throws AgentError E_LIMIT if what may not go takes too much
   */
  async makeRoom(bytes: number, limitBytes: number, signal: AbortSignal): Promise<void> {
    if ((await this.usedBytes()) + bytes <= limitBytes) return;
    const lock = await this.#locks.acquire(lockNames.store, "exclusive", signal);
    try {
      await this.evict({ untilBytes: limitBytes - bytes });
      const used = await this.usedBytes();
      if (used + bytes <= limitBytes) return;
      const text = `there is no room for ${formatBytes(bytes)} in the bundle cache: of its ${formatBytes(limitBytes)}`;
      throw new AgentError("E_LIMIT", `${text}, ${formatBytes(used)} are pinned or in use`, {
        hint: "raise cache_limit in the flasher's config, or let bundles go: 'jmp-agent bundle unpin'",
      });
    } finally {
      await lock.release();
    }
  }

  /** Removes what is beyond the limit and what nobody names, unless pulls are under way; the last of them does it then. */
  async tidy(limitBytes: number): Promise<void> {
    const lock = await this.#locks.tryAcquire(lockNames.store, "exclusive");
    if (lock === undefined) return;
    try {
      await this.evict({ untilBytes: limitBytes });
    } finally {
      await lock.release();
    }
  }

  /** For who has the store's lock. @returns the bundles that went */
  async evict({ untilBytes, keep = () => false }: Eviction): Promise<Digest[]> {
    const gone: Digest[] = [];
    await this.#collect();
    const digests = await digestsIn(this.#places.bundles);
    const used = await Promise.all(
      digests.map(async (digest) => ({ digest, usedMs: await changedMs(this.#recordPath(digest)) })),
    );
    used.sort((a, b) => a.usedMs - b.usedMs);
    for (const bundle of used) {
      if ((await this.usedBytes()) <= untilBytes) break;
      if (keep(bundle) || (await exists(this.#places.pin(bundle.digest)))) continue;
      if (!(await this.removeBundle(bundle.digest))) continue;
      gone.push(bundle.digest);
      await this.#collect();
    }
    if ((await this.usedBytes()) > untilBytes) await this.#removeFirstParts();
    return gone;
  }

  /** @returns false if it is in use */
  async removeBundle(digest: Digest): Promise<boolean> {
    const lock = await this.#locks.tryAcquire(lockNames.use(digest), "exclusive");
    if (lock === undefined) return false;
    try {
      await this.discard(this.#places.bundle(digest));
      return true;
    } finally {
      await lock.release();
    }
  }

  /** Moves it out of sight first: a half removed bundle must not be found. */
  async discard(path: string): Promise<void> {
    await makeDirectoryDurably(this.#places.incoming);
    const away = join(this.#places.incoming, `removed-${randomBytes(8).toString("hex")}`);
    try {
      await rename(path, away);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    // Its name goes before what it is made of.
    await syncDirectory(this.#places.bundles);
    await rm(away, { recursive: true, force: true });
  }

  /** Removes what no bundle names, and what dead pulls have left. Nobody else is at it: the store is locked. */
  async #collect(): Promise<void> {
    const isHostWide = await this.#locks.areHostWide();
    const isDead = async (path: string) => isHostWide || (await isStale(path));
    const named = new Set<Digest>();
    for (const digest of await digestsIn(this.#places.bundles)) {
      const record = await recordOf(this.#places, digest);
      if (record === undefined) await this.removeBundle(digest);
      for (const blob of record?.blobs ?? []) named.add(blob.digest);
    }
    for (const algorithm of ["sha256", "sha512"] as const) {
      for (const name of await namesIn(this.#places.blobs(algorithm))) {
        const path = join(this.#places.blobs(algorithm), name);
        if (!named.has(`${algorithm}:${name}`) && (await isDead(path)))
          await rm(path, { recursive: true, force: true });
      }
    }
    for (const name of await namesIn(this.#places.references)) {
      const path = join(this.#places.references, name);
      const record = await readRecord(path, referenceRecord);
      const isGone = record === undefined ? await isDead(path) : !(await exists(this.#places.bundle(record.digest)));
      if (isGone) await rm(path, { force: true });
    }
    for (const name of await namesIn(this.#places.incoming)) {
      const path = join(this.#places.incoming, name);
      // The first part of a blob is worth something for a while.
      const isRubbish = name.startsWith("blob-") ? await isStale(path) : await isDead(path);
      if (isRubbish) await rm(path, { recursive: true, force: true });
    }
    if (!isHostWide) return;
    const needed = new Set([lockNames.store, ...(await digestsIn(this.#places.bundles)).map(lockNames.use)]);
    for (const name of await namesIn(this.#places.locks)) {
      if (!needed.has(name)) await this.#locks.forget(name);
    }
  }

  async #removeFirstParts(): Promise<void> {
    for (const name of await namesIn(this.#places.incoming)) {
      if (name.startsWith("blob-")) await rm(join(this.#places.incoming, name), { force: true });
    }
  }

  #recordPath(digest: Digest): string {
    return join(this.#places.bundle(digest), "bundle.json");
  }
}

async function countBelow(directory: string, seen: Map<string, number>): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    // Another process may be removing it.
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw error;
  });
  for (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) {
      await countBelow(path, seen);
      continue;
    }
    const found = await lstat(path).catch(() => undefined);
    if (found !== undefined) seen.set(`${found.dev}:${found.ino}`, found.size);
  }
}

async function isStale(path: string): Promise<boolean> {
  return Date.now() - (await changedMs(path)) > staleAfterMs;
}
