import type { Digest, Expected } from "./digest.ts";
import type { TypedManifest } from "./image.ts";
import type { Source } from "./source.ts";

/** Where images go: a repository of a registry, an image layout on disk, or an archive of one. */
export interface Sink {
  /** Whether this blob is there, whole. */
  hasBlob(expected: Expected, signal: AbortSignal): Promise<boolean>;
  /** Takes a blob over, every byte checked; called for what is not there. */
  putBlob(expected: Expected, from: Pick<Source, "blob">, options: TransferOptions): Promise<void>;
  /**
   * Takes a manifest whose blobs, and whose manifests if it is an index, are there.
   * @param options.named how it is found; without a name it is only part of another
   */
  putManifest(raw: TypedManifest, digest: Digest, options: { named?: ImageName; signal: AbortSignal }): Promise<void>;
  /** All is there: in a layout or an archive, what has a tag is found from now on. A registry knows it already. */
  finish(): Promise<void>;
  /** Frees what is in use. Unless all was finished, an archive is gone and a layout names what it named before. */
  close(): Promise<void>;
}

export interface ImageName {
  readonly tag: string;
  /** What it is called elsewhere, e.g. `quay.io/boards/a:v1`; layouts and archives remember it. */
  readonly reference?: string | undefined;
}

export interface TransferOptions {
  /** What errors call the blob. */
  readonly name: string;
  readonly signal: AbortSignal;
  /** How many of the blob's bytes are through; fewer than before when it starts again. */
  readonly onProgress?: ((bytes: number) => void) | undefined;
}
