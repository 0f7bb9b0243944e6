import type { Readable } from "node:stream";
import type { Digest, Expected } from "./digest.ts";
import type { RawManifest } from "./image.ts";

/** Where images come from: a repository of a registry, or an image layout on disk. */
export interface Source {
  /** What a tag points to now. @throws AgentError E_CONNECTION or E_TIMEOUT if the source cannot be asked */
  resolve(signal: AbortSignal): Promise<Digest>;
  /** What another tag of the same repository or layout points to now; undefined if there is none. */
  tagged(tag: string, signal: AbortSignal): Promise<Digest | undefined>;
  /** The manifest or index with this digest. Its bytes are not checked yet. */
  manifest(digest: Digest, signal: AbortSignal): Promise<RawManifest>;
  /** The content of a layer or signature, without its first `from` bytes. Its bytes are not checked yet. */
  blob(expected: Expected, options: { readonly signal: AbortSignal; readonly from?: number }): Promise<Readable>;
  close(): Promise<void>;
}
