import { forEachBounded } from "./bounded.ts";
import type { Digest } from "./digest.ts";
import type { ImageName, Sink } from "./sink.ts";
import type { Source } from "./source.ts";
import { readTree } from "./tree.ts";

export interface CopyOptions {
  /** What errors call the image. */
  readonly name: string;
  /** The name that the copy gets. */
  readonly named: ImageName;
  readonly signal: AbortSignal;
  readonly onProgress?: ((progress: CopyProgress) => void) | undefined;
}

export interface CopyProgress {
  /** Moved, or found to be there. */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface CopyReport {
  readonly digest: Digest;
  readonly blobs: number;
  /** Blobs that had to be moved. */
  readonly movedBlobs: number;
  readonly movedBytes: number;
}

/** Uploads side by side: more make no link faster, and each is a connection at the registry. */
const mostTransfers = 3;

/**
 * Copies an image, for all platforms if it is an index, as it is: its digest stays the same. Every byte is checked on the
 * way, and the copy gets its name last.
 * @throws AgentError E_DIGEST, E_INVALID, E_LIMIT, E_CONNECTION, E_TIMEOUT, E_IO
 */
export async function copyImage(
  source: Source,
  digest: Digest,
  sink: Sink,
  { name, named, signal, onProgress }: CopyOptions,
): Promise<CopyReport> {
  const { manifests, blobs } = await readTree(source, digest, { name, signal });
  const totalBytes = blobs.reduce((sum, { size }) => sum + size, 0);
  const settled = new Map<Digest, number>();
  let movedBlobs = 0;
  let movedBytes = 0;
  const tell = (blob: Digest, bytes: number) => {
    settled.set(blob, bytes);
    onProgress?.({ doneBytes: [...settled.values()].reduce((sum, one) => sum + one, 0), totalBytes });
  };
  await forEachBounded(blobs, { most: mostTransfers, signal }, async (blob, anySignal) => {
    if (!(await sink.hasBlob(blob, anySignal))) {
      const transfer = { name: `${name}: ${blob.name}`, signal: anySignal };
      await sink.putBlob(blob, source, { ...transfer, onProgress: (bytes) => tell(blob.digest, bytes) });
      movedBlobs += 1;
      movedBytes += blob.size;
    }
    tell(blob.digest, blob.size);
  });
  for (const manifest of manifests) {
    const options = manifest.digest === digest ? { named, signal } : { signal };
    await sink.putManifest(manifest.raw, manifest.digest, options);
  }
  return { digest, blobs: blobs.length, movedBlobs, movedBytes };
}
