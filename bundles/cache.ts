import { randomBytes } from "node:crypto";
import { mkdir, readFile, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import * as z from "zod";
import { AgentError, isSystemError, toAgentError } from "../agent/driver/errors.ts";
import type { Logger } from "../agent/driver/log.ts";
import { makeDirectoryDurably, syncDirectory, syncTree, writeDurably } from "../agent/stream/durable.ts";
import { checkFile, type BundleFile } from "./files.ts";
import { digestOf, isDigest, type Digest } from "./oci/digest.ts";
import type { Source } from "./oci/source.ts";
import { confinedPath } from "./paths.ts";
import { isUnreachable, pullBundle } from "./pull.ts";

export interface BundleCacheOptions {
  /** Made when it is missing. Several processes may use it at once. */
  readonly directory: string;
  readonly log: Logger;
  /** Most bytes of one bundle. */
  readonly mostBytes?: number;
  /** How many bundles are kept; the ones not used for longest go. */
  readonly keep?: number;
}

/** A bundle whose files have been checked against their digests. */
export interface CachedBundle {
  /** Of the image manifest or index that the reference led to. */
  readonly digest: Digest;
  readonly directory: string;
}

/** What is asked for. */
export interface Wanted {
  /** Complete reference; under it the digest is remembered. */
  readonly name: string;
  /** A pin: nothing else is accepted, and nobody is asked if it is here. */
  readonly digest: Digest | undefined;
  readonly open: () => Promise<Source>;
  /** Throws to refuse a digest, before anything of it is used. */
  readonly accept?: (source: Source, digest: Digest, signal: AbortSignal) => Promise<void>;
  /** Manifests to store beside it. */
  readonly alsoKeep?: (source: Source, digest: Digest, signal: AbortSignal) => Promise<Digest[]>;
}

const digest = z.custom<Digest>((text) => typeof text === "string" && isDigest(text));
const bundleRecord = z.object({
  files: z.array(z.object({ path: z.string().refine((path) => confinedPath(path) === path), size: z.int(), digest })),
});
const referenceRecord = z.object({ reference: z.string(), digest, checked: z.iso.datetime() });

/** What the system says of files that are not as they were written; anything else is trouble of another kind. */
const damages = new Set(["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "EIO"]);

const defaultMostBytes = 4 * 1024 ** 3;
const defaultKeep = 8;
/** A whole pull: a slow peer cannot hold it for longer. */
const pullTimeoutMs = 30 * 60_000;
/** What an interrupted pull left is removed by a later one; longer than any pull. */
const staleAfterMs = 2 * pullTimeoutMs;

/**
 * Bundles on disk, by digest:
 *
 *     bundles/sha256-…/bundle.json    every file with its size and digest
 *     bundles/sha256-…/files/…        the bundle
 *     references/….json               which digest a tag had when it was last asked for
 *     incoming/…                      pulls under way
 *
 * A bundle appears by one rename after all of it is on the disk: it is there whole or not at all. It is checked once
 * more before its first use in a process, for disks forget and people tidy up.
 */
export class BundleCache {
  readonly #options: Required<BundleCacheOptions>;
  readonly #checked = new Map<Digest, Promise<CachedBundle | undefined>>();
  readonly #pulls = new Map<Digest, Promise<CachedBundle>>();
  readonly #closing = new AbortController();

  constructor(options: BundleCacheOptions) {
    this.#options = { mostBytes: defaultMostBytes, keep: defaultKeep, ...options };
  }

  /**
   * The bundle a reference names. It is pulled only if its digest is not here yet; if the registry cannot be asked, the
   * one that the reference last led to is used, with a warning.
   * @throws AgentError E_DIGEST, E_INVALID, E_LIMIT, E_CONNECTION, E_TIMEOUT, E_IO; then nothing is left behind
   */
  async get(wanted: Wanted): Promise<CachedBundle> {
    const pinned = wanted.digest === undefined || wanted.accept ? undefined : await this.#lookUp(wanted.digest);
    if (pinned !== undefined) return pinned;
    const timeout = AbortSignal.timeout(pullTimeoutMs);
    const signal = AbortSignal.any([this.#closing.signal, timeout]);
    const source = await wanted.open();
    try {
      const digest = wanted.digest ?? (await source.resolve(signal));
      await wanted.accept?.(source, digest, signal);
      const bundle = (await this.#lookUp(digest)) ?? (await this.#pullOnce(digest, source, wanted.name, signal));
      await this.#remember(wanted.name, digest);
      return bundle;
    } catch (thrown) {
      const error = timeout.aborted
        ? new AgentError("E_TIMEOUT", `${wanted.name} could not be pulled in ${pullTimeoutMs / 60_000} minutes`)
        : thrown;
      if (wanted.digest !== undefined || wanted.accept || !isUnreachable(error)) throw error;
      return await this.#recall(wanted.name, error);
    } finally {
      await source.close();
    }
  }

  /** Ends pulls and waits until nothing of them is left. */
  async close(): Promise<void> {
    this.#closing.abort(new AgentError("E_CANCELLED", "the exporter is closing"));
    await Promise.allSettled(this.#pulls.values());
  }

  /** A bundle that is here and whole. */
  async #lookUp(digest: Digest): Promise<CachedBundle | undefined> {
    const known = this.#checked.get(digest);
    const checking = known ?? this.#check(digest);
    this.#checked.set(digest, checking);
    let bundle: CachedBundle | undefined;
    try {
      bundle = await checking;
      return bundle !== undefined && (await markUsed(this.#home(digest))) ? bundle : (bundle = undefined);
    } finally {
      if (bundle === undefined && this.#checked.get(digest) === checking) this.#checked.delete(digest);
    }
  }

  /** Reads all of a bundle; a damaged one is removed. */
  async #check(digest: Digest): Promise<CachedBundle | undefined> {
    const home = this.#home(digest);
    const directory = join(home, "files");
    if (!(await exists(home))) return undefined;
    try {
      const record = await readRecord(join(home, "bundle.json"), bundleRecord);
      if (record === undefined) throw new AgentError("E_DIGEST", "its list of files is unreadable");
      for (const file of record.files) await checkFile(join(directory, file.path), file, file.path);
      return { digest, directory };
    } catch (error) {
      if (isSystemError(error) && !damages.has(error.code)) throw error;
      this.#options.log.warn(`removing the damaged cached bundle ${digest}: ${toAgentError(error).message}`);
      await this.#remove(home);
      return undefined;
    }
  }

  /** One pull per digest, however many ask for it. */
  #pullOnce(digest: Digest, source: Source, name: string, signal: AbortSignal): Promise<CachedBundle> {
    const underWay = this.#pulls.get(digest);
    if (underWay !== undefined) return underWay;
    const pull = this.#pull(digest, source, name, signal).finally(() => this.#pulls.delete(digest));
    this.#pulls.set(digest, pull);
    return pull;
  }

  async #pull(digest: Digest, source: Source, name: string, signal: AbortSignal): Promise<CachedBundle> {
    const { log, mostBytes } = this.#options;
    log.info(`pulling ${name} (${digest})`);
    const known = await this.#knownFiles();
    const incoming = await this.#makeIncoming();
    try {
      const into = join(incoming, "files");
      const files = await pullBundle({ source, digest, name, into, mostBytes, known, signal });
      await writeDurably(join(incoming, "bundle.json"), JSON.stringify({ files } satisfies { files: BundleFile[] }));
      await syncTree(incoming);
      await this.#publish(incoming, digest);
    } finally {
      await rm(incoming, { recursive: true, force: true });
    }
    await this.#tidy(digest);
    const bundle = { digest, directory: join(this.#home(digest), "files") };
    this.#checked.set(digest, Promise.resolve(bundle));
    return bundle;
  }

  /** Gives a finished bundle its name. If another process was quicker, its copy is as good. */
  async #publish(incoming: string, digest: Digest): Promise<void> {
    const home = this.#home(digest);
    await makeDirectoryDurably(dirname(home));
    await rename(incoming, home).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
    await syncDirectory(dirname(home));
  }

  async #makeIncoming(): Promise<string> {
    const path = join(this.#options.directory, "incoming", randomBytes(8).toString("hex"));
    await mkdir(path, { recursive: true });
    return path;
  }

  /** Moves it out of sight first: a half removed bundle must not be found. */
  async #remove(path: string): Promise<void> {
    const away = await this.#makeIncoming();
    await rename(path, join(away, "removed")).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
    await rm(away, { recursive: true, force: true });
  }

  /** Removes the bundles not used for longest, references to bundles that are gone, and what dead pulls left. */
  async #tidy(current: Digest): Promise<void> {
    const others = (await this.#homes()).filter(({ path }) => path !== this.#home(current));
    others.sort((a, b) => b.usedMs - a.usedMs);
    for (const { path } of others.slice(this.#options.keep - 1)) await this.#remove(path);

    const references = join(this.#options.directory, "references");
    for (const name of await namesIn(references)) {
      const record = await readRecord(join(references, name), referenceRecord);
      const isGone =
        record === undefined ? await isStale(join(references, name)) : !(await exists(this.#home(record.digest)));
      if (isGone) await rm(join(references, name), { force: true });
    }

    const incoming = join(this.#options.directory, "incoming");
    for (const name of await namesIn(incoming)) {
      if (await isStale(join(incoming, name))) await rm(join(incoming, name), { recursive: true, force: true });
    }
  }

  /** Digest → path of every file of every bundle here, so that a new version shares what did not change. */
  async #knownFiles(): Promise<Map<Digest, string>> {
    const known = new Map<Digest, string>();
    for (const { path } of await this.#homes()) {
      const record = await readRecord(join(path, "bundle.json"), bundleRecord);
      for (const file of record?.files ?? []) known.set(file.digest, join(path, "files", file.path));
    }
    return known;
  }

  async #homes(): Promise<{ path: string; usedMs: number }[]> {
    const parent = join(this.#options.directory, "bundles");
    const homes = [];
    for (const name of await namesIn(parent)) {
      const path = join(parent, name);
      homes.push({ path, usedMs: await changedMs(join(path, "bundle.json")) });
    }
    return homes;
  }

  #home(digest: Digest): string {
    return join(this.#options.directory, "bundles", digest.replace(":", "-"));
  }

  #referencePath(name: string): string {
    return join(this.#options.directory, "references", `${digestOf(Buffer.from(name)).slice("sha256:".length)}.json`);
  }

  /** What the cache cannot remember (a read-only or full disk) it asks for again; the bundle is good all the same. */
  async #remember(reference: string, digest: Digest): Promise<void> {
    const path = this.#referencePath(reference);
    try {
      await makeDirectoryDurably(dirname(path));
      await writeDurably(path, JSON.stringify({ reference, digest, checked: new Date().toISOString() }));
    } catch (error) {
      if (!isSystemError(error)) throw error;
      this.#options.log.warn(`cannot remember what ${reference} is for the time without a registry: ${error.message}`);
    }
  }

  async #recall(reference: string, unreachable: AgentError): Promise<CachedBundle> {
    const record = await readRecord(this.#referencePath(reference), referenceRecord);
    const bundle = record?.reference === reference ? await this.#lookUp(record.digest) : undefined;
    if (record === undefined || bundle === undefined) throw unreachable;
    const age = describeAge(Date.now() - Date.parse(record.checked));
    const text = `${unreachable.message}; using ${bundle.digest}, which ${reference} was when last seen ${age} ago`;
    this.#options.log.warn(text);
    return bundle;
  }
}

function describeAge(ageMs: number): string {
  const minutes = Math.max(0, Math.round(ageMs / 60_000));
  if (minutes < 120) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / (24 * 60))} days`;
}

/** A record that is there and whole. */
async function readRecord<S extends z.ZodType>(path: string, schema: S): Promise<z.output<S> | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    if (isSystemError(error) && !damages.has(error.code)) throw error;
    return undefined;
  }
}

async function namesIn(directory: string): Promise<string[]> {
  return await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
}

/** Sets the time by which the oldest are found. @returns whether the bundle is still there */
async function markUsed(home: string): Promise<boolean> {
  const now = new Date();
  await utimes(join(home, "bundle.json"), now, now).catch(() => {});
  return await exists(join(home, "bundle.json"));
}

async function exists(path: string): Promise<boolean> {
  return (await changedMs(path)) > 0;
}

async function isStale(path: string): Promise<boolean> {
  return Date.now() - (await changedMs(path)) > staleAfterMs;
}

/** Time of the last change; 0 if it is not there. */
async function changedMs(path: string): Promise<number> {
  return await stat(path).then(
    ({ mtimeMs }) => Math.max(1, mtimeMs),
    () => 0,
  );
}
