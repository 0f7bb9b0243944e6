import { rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { makeDirectoryDurably, syncDirectory, writeDurably } from "../../agent/stream/durable.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import type { TryLock } from "../../agent/sys/flock.ts";
import type { Digest } from "../oci/digest.ts";
import { isUnreachable } from "../oci/retry.ts";
import type { Source } from "../oci/source.ts";
import { cachedSource } from "./cached-source.ts";
import { findDamages, recordOf, Seals, type Damage } from "./integrity.ts";
import { listBundles, type ListedBundle } from "./list.ts";
import { Locks, type Lock } from "./locks.ts";
import type { Asked, TaggedManifest } from "./make-bundle.ts";
import { BundleMaker } from "./maker.ts";
import { exists, lockNames, Places } from "./places.ts";
import { readRecord, referenceRecord, type BundleRecord } from "./records.ts";
import { Space } from "./space.ts";

export interface BundleCacheOptions {
  /** Made when it is missing. Several processes may use it at once; one that cannot be written to serves what it holds. */
  readonly directory: string;
  readonly log: Logger;
  /** Most bytes of one bundle. */
  readonly mostBytes?: number | undefined;
  /** Most bytes of all bundles; the ones not used for longest go. */
  readonly limitBytes?: number | undefined;
  /** Other at each start of the host; by default the kernel's. */
  readonly bootId?: string | undefined;
  /** How locks between processes are loaded; by default, flock. */
  readonly loadTryLock?: (() => Promise<TryLock>) | undefined;
}

/** A bundle whose files have been checked against their digests. */
export interface CachedBundle {
  /** Of the image manifest or index that the reference led to. */
  readonly digest: Digest;
  readonly directory: string;
  /** It is not used any more. Until then no process of this host removes it. */
  release(): void;
}

/** What is asked for. */
export interface Wanted {
  /** Complete reference; under it the digest is remembered. */
  readonly name: string;
  /** A pin: nothing else is accepted, and nobody is asked if it is here. */
  readonly digest: Digest | undefined;
  readonly open: () => Promise<Source>;
  /**
   * Throws to refuse an image. Asked before anything of it is stored, and with what is here before it is used; what was
   * refused so is asked for anew where it came from.
   */
  readonly accept?: (source: Source, digest: Digest, signal: AbortSignal) => Promise<void>;
  /** Manifests of the same place to store with it, so that they are here when nobody can be asked: signatures. */
  readonly alsoKeep?: (source: Source, digest: Digest, signal: AbortSignal) => Promise<readonly TaggedManifest[]>;
}

export interface Pruning {
  /** The bundles not used for longest go until the cache has no more; default: all that nobody uses or pinned. */
  readonly untilBytes?: number;
  /** Only bundles that were not used for so long. */
  readonly unusedForMs?: number;
  readonly signal: AbortSignal;
}

const defaultMostBytes = 4 * 1024 ** 3;
const defaultLimitBytes = 16 * 1024 ** 3;
/** A whole pull: a slow peer cannot hold it for longer. */
const pullTimeoutMs = 30 * 60_000;
const tellEveryMs = 10_000;

/**
 * Bundles on disk, by digest ({@link Places} says what lies where), shared by all processes of a host. A bundle appears
 * by one rename after all of it is on the disk: it is there whole or not at all. It is read once more before its first
 * use after the host has started, for disks forget, and whenever its files are not those that were read.
 */
export class BundleCache {
  readonly #log: Logger;
  readonly #limitBytes: number;
  readonly #places: Places;
  readonly #locks: Locks;
  readonly #space: Space;
  readonly #maker: BundleMaker;
  readonly #seals: Seals;
  readonly #checks = new Map<Digest, Promise<BundleRecord | undefined>>();
  readonly #pulls = new Set<Promise<unknown>>();
  readonly #uses = new Set<Lock>();
  readonly #closing = new AbortController();

  constructor({ directory, log, mostBytes, limitBytes, bootId, loadTryLock }: BundleCacheOptions) {
    this.#log = log;
    this.#limitBytes = limitBytes ?? defaultLimitBytes;
    this.#places = new Places(directory);
    this.#locks = new Locks(this.#places.locks, log, loadTryLock);
    this.#space = new Space(this.#places, this.#locks);
    this.#seals = new Seals(this.#places, bootId);
    const shared = { log, places: this.#places, locks: this.#locks, space: this.#space, seals: this.#seals };
    this.#maker = new BundleMaker({
      ...shared,
      mostBytes: mostBytes ?? defaultMostBytes,
      limitBytes: this.#limitBytes,
    });
  }

  /**
   * The bundle a reference names. It is pulled only if its digest is not here yet; if the registry cannot be asked, the
   * one that the reference last led to is used, with a warning.
   * @throws AgentError E_DIGEST, E_INVALID, E_LIMIT, E_CONNECTION, E_TIMEOUT, E_IO, or what `accept` throws; then nothing
   *   is left behind but the first parts of blobs, where they can be continued
   */
  async get(wanted: Wanted): Promise<CachedBundle> {
    const getting = this.#get(wanted);
    this.#pulls.add(getting);
    try {
      return await getting;
    } finally {
      this.#pulls.delete(getting);
    }
  }

  /** All bundles that are here, the one used last first. */
  async list(): Promise<ListedBundle[]> {
    return await listBundles(this.#places, this.#locks);
  }

  /** Removes bundles that nobody uses or pinned, and what belongs to none. @returns the digests of those that went */
  async prune({
    untilBytes = 0,
    unusedForMs = 0,
    signal,
  }: Pruning): Promise<{ removed: Digest[]; freedBytes: number }> {
    const lock = await this.#locks.acquire(lockNames.store, "exclusive", signal);
    try {
      const before = await this.#space.usedBytes();
      const keep = ({ usedMs }: { usedMs: number }) => Date.now() - usedMs < unusedForMs;
      const removed = await this.#space.evict({ untilBytes, keep });
      return { removed, freedBytes: before - (await this.#space.usedBytes()) };
    } finally {
      await lock.release();
    }
  }

  /**
   * Reads every byte of a bundle that is here.
   * @returns what is damaged; nothing if all is well
   * @throws AgentError E_INVALID if it is not here
   */
  async verify(digest: Digest): Promise<Damage[]> {
    return await findDamages(this.#places, digest, await this.#recordHere(digest));
  }

  /** It stays, whatever the limit. @throws AgentError E_INVALID if it is not here */
  async pin(digest: Digest): Promise<void> {
    await this.#recordHere(digest);
    await makeDirectoryDurably(this.#places.pins);
    await writeFile(this.#places.pin(digest), "");
    await syncDirectory(this.#places.pins);
  }

  async unpin(digest: Digest): Promise<void> {
    await rm(this.#places.pin(digest), { force: true });
  }

  /** A bundle that is here as a place where images come from. @throws AgentError E_INVALID if it is not here */
  async source(digest: Digest): Promise<Source> {
    return cachedSource(this.#places, digest, await this.#recordHere(digest));
  }

  /** Ends pulls, waits until they have, and uses no bundle any more. */
  async close(): Promise<void> {
    this.#closing.abort(new AgentError("E_CANCELLED", "the exporter is closing"));
    await Promise.allSettled(this.#pulls);
    await Promise.all([...this.#uses].map((use) => use.release()));
    this.#uses.clear();
  }

  async #get(wanted: Wanted): Promise<CachedBundle> {
    const { name } = wanted;
    const timeout = AbortSignal.timeout(pullTimeoutMs);
    const signal = anySignal([this.#closing.signal, timeout]);
    let refusal: AgentError | undefined;
    const acceptedHere = async (digest: Digest): Promise<CachedBundle | undefined> => {
      const bundle = await this.#take(digest, signal);
      if (bundle === undefined || wanted.accept === undefined) return bundle;
      try {
        await wanted.accept(await this.source(digest), digest, signal);
        return bundle;
      } catch (error) {
        bundle.release();
        refusal = toAgentError(error);
        return undefined;
      }
    };
    if (wanted.digest !== undefined) {
      const pinned = await acceptedHere(wanted.digest);
      if (pinned !== undefined) return pinned;
    }
    const source = await wanted.open();
    try {
      const digest = wanted.digest ?? (await source.resolve(signal));
      const here = wanted.digest === undefined ? await acceptedHere(digest) : undefined;
      const bundle = here ?? (await this.#pull(digest, source, wanted, signal));
      await this.#remember(name, digest);
      return bundle;
    } catch (thrown) {
      const error = timeout.aborted
        ? new AgentError("E_TIMEOUT", `${name} could not be pulled in ${pullTimeoutMs / 60_000} minutes`)
        : thrown;
      if (!isUnreachable(error)) throw error;
      const recalled = wanted.digest === undefined ? await this.#recall(name, error, acceptedHere) : undefined;
      if (recalled === undefined) throw refusal ?? error;
      return recalled;
    } finally {
      await source.close();
    }
  }

  /** A bundle that is here and whole, in use from now on. */
  async #take(digest: Digest, signal: AbortSignal): Promise<CachedBundle | undefined> {
    if (!(await exists(this.#places.bundle(digest)))) return undefined;
    const use = await this.#locks.acquire(lockNames.use(digest), "shared", signal);
    let isTaken = false;
    try {
      isTaken = (await this.#checkOnce(digest)) !== undefined;
    } finally {
      if (!isTaken) await use.release();
    }
    if (!isTaken) return undefined;
    await this.#markUsed(digest);
    this.#uses.add(use);
    const release = () => {
      this.#uses.delete(use);
      use.release().catch((error: unknown) => {
        this.#log.warn(`cannot release the bundle ${digest}: ${toAgentError(error).message}`);
      });
    };
    return { digest, directory: join(this.#places.bundle(digest), "files"), release };
  }

  /** However many exporters of this process ask, a bundle is read once. */
  #checkOnce(digest: Digest): Promise<BundleRecord | undefined> {
    const underWay = this.#checks.get(digest);
    if (underWay !== undefined) return underWay;
    const checking = this.#check(digest).finally(() => this.#checks.delete(digest));
    this.#checks.set(digest, checking);
    return checking;
  }

  /** Reads all of a bundle unless that was done; a damaged one is removed. */
  async #check(digest: Digest): Promise<BundleRecord | undefined> {
    const found = await inodeOf(this.#places.bundle(digest));
    if (found === undefined) return undefined;
    const record = await recordOf(this.#places, digest);
    let damage = "its list of files is unreadable";
    if (record !== undefined) {
      if (await this.#seals.isSealed(digest, record)) return record;
      const [first] = await findDamages(this.#places, digest, record);
      if (first === undefined) {
        await this.#seals.seal(digest, record);
        return record;
      }
      damage = first.error.message;
    }
    await this.#removeDamaged(digest, damage, found);
    return undefined;
  }

  /** @param inode what was found damaged; another process may have made it anew */
  async #removeDamaged(digest: Digest, damage: string, inode: number): Promise<void> {
    const making = await this.#locks.tryAcquire(lockNames.make(digest), "exclusive");
    try {
      if (making === undefined || (await inodeOf(this.#places.bundle(digest))) !== inode) return;
      this.#log.warn(`removing the damaged cached bundle ${digest}: ${damage}`);
      await this.#space.discard(this.#places.bundle(digest));
    } finally {
      await making?.release();
    }
  }

  async #pull(digest: Digest, source: Source, wanted: Wanted, signal: AbortSignal): Promise<CachedBundle> {
    await wanted.accept?.(source, digest, signal);
    const keep = (await wanted.alsoKeep?.(source, digest, signal)) ?? [];
    try {
      return await this.#takeOrMake(digest, keep, { source, name: wanted.name, signal });
    } catch (error) {
      throw isSystemError(error) ? this.#notStored(wanted.name, error) : error;
    }
  }

  /** One pull per digest and host, however many ask for it; the others wait, and one goes on if the first one dies. */
  async #takeOrMake(digest: Digest, keep: readonly TaggedManifest[], asked: Asked): Promise<CachedBundle> {
    const { signal } = asked;
    const name = lockNames.make(digest);
    let toldMs = -Infinity;
    for (;;) {
      const bundle = await this.#take(digest, signal);
      if (bundle !== undefined && (await this.#hasBeside(digest, keep))) {
        await this.#space.tidy(this.#limitBytes);
        return bundle;
      }
      bundle?.release();
      const making = await this.#locks.tryAcquire(name, "exclusive");
      if (making === undefined) {
        if (Date.now() - toldMs > tellEveryMs) {
          toldMs = Date.now();
          this.#log.info(`waiting for ${asked.name}, which another pull fetches: ${await this.#locks.heard(name)}`);
        }
        await this.#locks.pause(signal);
        continue;
      }
      try {
        const record = await recordOf(this.#places, digest);
        if (record === undefined) await this.#maker.make(digest, keep, making, asked);
        else await this.#maker.add(digest, record, keep, asked);
      } catch (error) {
        await making.release();
        // What the connection broke is continued next time; of what was refused nothing stays.
        if (!isUnreachable(error) && !signal.aborted) await this.#space.tidy(this.#limitBytes);
        throw error;
      } finally {
        await making.release();
      }
    }
  }

  async #hasBeside(digest: Digest, keep: readonly TaggedManifest[]): Promise<boolean> {
    if (keep.length === 0) return true;
    const { beside } = await this.#recordHere(digest);
    return keep.every((one) => beside[one.tag] === one.digest);
  }

  /** What the cache cannot remember (a read-only or full disk) it asks for again; the bundle is good all the same. */
  async #remember(reference: string, digest: Digest): Promise<void> {
    const path = this.#places.reference(reference);
    try {
      await makeDirectoryDurably(this.#places.references);
      await writeDurably(path, JSON.stringify({ reference, digest, checked: new Date().toISOString() }));
    } catch (error) {
      if (!isSystemError(error)) throw error;
      this.#log.warn(`cannot remember what ${reference} is for the time without a registry: ${error.message}`);
    }
  }

  async #recall(
    reference: string,
    unreachable: AgentError,
    take: (digest: Digest) => Promise<CachedBundle | undefined>,
  ): Promise<CachedBundle | undefined> {
    const record = await readRecord(this.#places.reference(reference), referenceRecord);
    const bundle = record?.reference === reference ? await take(record.digest) : undefined;
    if (record === undefined || bundle === undefined) return undefined;
    const age = describeAge(Date.now() - Date.parse(record.checked));
    const text = `${unreachable.message}; using ${bundle.digest}, which ${reference} was when last seen ${age} ago`;
    this.#log.warn(text);
    return bundle;
  }

  async #recordHere(digest: Digest): Promise<BundleRecord> {
    const record = await recordOf(this.#places, digest);
    if (record === undefined) throw new AgentError("E_INVALID", `${digest} is not in the bundle cache`);
    return record;
  }

  /** Sets the time by which the oldest are found. */
  async #markUsed(digest: Digest): Promise<void> {
    const now = new Date();
    await utimes(join(this.#places.bundle(digest), "bundle.json"), now, now).catch(() => {});
  }

  #notStored(name: string, error: NodeJS.ErrnoException): AgentError {
    const text = `${name} cannot be brought into ${this.#places.root}: ${toAgentError(error).message}`;
    return new AgentError("E_IO", text, {
      hint: "free space there ('jmp-agent bundle prune'), or have the cache elsewhere: cache_dir in a flasher's config, --cache-dir on the command line",
      cause: error,
    });
  }
}

async function inodeOf(path: string): Promise<number | undefined> {
  return await stat(path).then(
    ({ ino }) => ino,
    () => undefined,
  );
}

function describeAge(ageMs: number): string {
  const minutes = Math.max(0, Math.round(ageMs / 60_000));
  if (minutes < 120) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / (24 * 60))} days`;
}
