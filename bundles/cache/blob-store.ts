import { rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { makeDirectoryDurably, syncDirectory } from "../../agent/stream/durable.ts";
import { checkFile, writeNewFile } from "../files.ts";
import type { Expected } from "../oci/digest.ts";
import { fetchBlob } from "../oci/fetch-blob.ts";
import { isUnreachable } from "../oci/retry.ts";
import type { Source } from "../oci/source.ts";
import { Readable } from "node:stream";
import { exists, lockNames, nameOf, type Places } from "./places.ts";
import { damages } from "./records.ts";
import type { Locks } from "./locks.ts";

export interface Fetch {
  readonly source: Source;
  /** What errors call the blob. */
  readonly name: string;
  readonly signal: AbortSignal;
  /** How many of its bytes are here. */
  readonly onProgress?: ((bytes: number) => void) | undefined;
}

/** Blobs by their digests. A blob has its name only once all of it was compared and is on the disk. */
export class BlobStore {
  readonly #places: Places;
  readonly #locks: Locks;

  constructor(places: Places, locks: Locks) {
    this.#places = places;
    this.#locks = locks;
  }

  /**
   * A blob's file, from the source if it is not here; one download, however many processes want it. What an earlier
   * attempt left is continued.
   * @throws AgentError E_DIGEST, E_CONNECTION, E_TIMEOUT; the system's errors
   */
  async fetch(expected: Expected, fetch: Fetch): Promise<string> {
    const lock = await this.#locks.acquire(lockNames.blob(expected.digest), "exclusive", fetch.signal);
    try {
      const path = this.#places.blob(expected.digest);
      if (await this.#isWhole(expected)) {
        fetch.onProgress?.(expected.size);
        return path;
      }
      const incoming = join(this.#places.incoming, `blob-${nameOf(expected.digest)}${await this.#locks.ownSuffix()}`);
      await makeDirectoryDurably(this.#places.incoming);
      await this.#receive(expected, incoming, fetch);
      await this.#publish(incoming, path);
      return path;
    } finally {
      await lock.release();
    }
  }

  /** Stores bytes that were checked. */
  async put(bytes: Uint8Array, expected: Expected, signal: AbortSignal): Promise<void> {
    const lock = await this.#locks.acquire(lockNames.blob(expected.digest), "exclusive", signal);
    try {
      if (await this.#isWhole(expected)) return;
      const incoming = join(this.#places.incoming, `blob-${nameOf(expected.digest)}${await this.#locks.ownSuffix()}`);
      await makeDirectoryDurably(this.#places.incoming);
      await rm(incoming, { force: true });
      await orNothing(incoming, () => writeNewFile(incoming, Readable.from([bytes]), signal));
      await this.#publish(incoming, this.#places.blob(expected.digest));
    } finally {
      await lock.release();
    }
  }

  /** Waits until the names of all blobs are on the disk. */
  async sync(): Promise<void> {
    for (const algorithm of ["sha256", "sha512"] as const) {
      const directory = this.#places.blobs(algorithm);
      if (await exists(directory)) await syncDirectory(directory);
    }
  }

  /** Reads all of a blob that is here: disks forget. A damaged one loses its name. */
  async #isWhole(expected: Expected): Promise<boolean> {
    const path = this.#places.blob(expected.digest);
    try {
      await checkFile(path, expected);
      return true;
    } catch (error) {
      if (isSystemError(error) && !damages.has(error.code)) throw error;
      await rm(path, { recursive: true, force: true });
      return false;
    }
  }

  async #receive(expected: Expected, incoming: string, { source, ...options }: Fetch): Promise<void> {
    const isContinued = await exists(incoming);
    const receive = () => orNothing(incoming, () => fetchBlob(source, expected, incoming, options));
    try {
      await receive();
    } catch (error) {
      // After a power cut the first part may be anything; that is not the source's fault.
      if (!isContinued || !(error instanceof AgentError) || error.code !== "E_DIGEST") throw error;
      await receive();
    }
  }

  async #publish(incoming: string, path: string): Promise<void> {
    await makeDirectoryDurably(dirname(path));
    await rename(incoming, path);
  }
}

/** What was received stays only if it can be continued: when the connection broke, or somebody gave up. */
async function orNothing(incoming: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const isContinuable = isUnreachable(error) || (error instanceof AgentError && error.code === "E_CANCELLED");
    if (!isContinuable) await rm(incoming, { recursive: true, force: true });
    throw error;
  }
}
