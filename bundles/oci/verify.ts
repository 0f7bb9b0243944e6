import { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { toAgentError, type AgentError } from "../../agent/driver/errors.ts";
import { forEachBounded } from "./bounded.ts";
import { verifying, type Digest } from "./digest.ts";
import { withRetries } from "./retry.ts";
import type { Source } from "./source.ts";
import { readTree } from "./tree.ts";

/** What became of one blob or manifest that was read to its end. */
export interface Verdict {
  readonly digest: Digest;
  /** Title of a file, or what else it is. */
  readonly name: string;
  /** Undefined for what could not be read. */
  readonly bytes: number | undefined;
  readonly error: AgentError | undefined;
}

const mostReads = 3;

/**
 * Reads every byte of an image, for all platforms if it is an index.
 * @returns a verdict on each manifest and blob, also after the first bad one
 */
export async function verifyImage(
  source: Pick<Source, "manifest" | "blob">,
  digest: Digest,
  { name, signal, onVerdict }: { name: string; signal: AbortSignal; onVerdict: (verdict: Verdict) => void },
): Promise<void> {
  const refuse = (what: Digest, error: AgentError) =>
    onVerdict({ digest: what, name: "manifest", bytes: undefined, error });
  const { manifests, blobs } = await readTree(source, digest, { name, signal, refuse });
  for (const { digest, raw } of manifests) {
    onVerdict({ digest, name: "manifest", bytes: raw.bytes.length, error: undefined });
  }
  await forEachBounded(blobs, { most: mostReads, signal }, async (blob, anySignal) => {
    const read = async () => {
      const content = await source.blob(blob, { signal: anySignal });
      const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
      await pipeline(content, verifying(blob, blob.name), nowhere, { signal: anySignal });
    };
    try {
      await withRetries(read, { signal: anySignal });
      onVerdict({ digest: blob.digest, name: blob.name, bytes: blob.size, error: undefined });
    } catch (error) {
      if (anySignal.aborted) throw error;
      onVerdict({ digest: blob.digest, name: blob.name, bytes: undefined, error: toAgentError(error) });
    }
  });
}
