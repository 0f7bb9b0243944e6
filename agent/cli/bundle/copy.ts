import { formatBytes } from "../../../bundles/cache/bytes.ts";
import { copyImage, type CopyReport } from "../../../bundles/oci/copy.ts";
import { signatureTagOf, type Digest } from "../../../bundles/oci/digest.ts";
import type { Source } from "../../../bundles/oci/source.ts";

import type { ImageName, Sink } from "../../../bundles/oci/sink.ts";
import type { OpenedPlace } from "./places.ts";
import { ProgressLine } from "./progress.ts";

/**
 * Copies an image for a command that a person or a script waits for. Its signature, if there is one, goes with it and
 * arrives first: nobody finds the image without.
 */
export async function copyShown(
  { name, source, digest }: Pick<OpenedPlace, "name" | "source" | "digest">,
  sink: Sink,
  named: ImageName,
  signal: AbortSignal,
): Promise<CopyReport & { signature: Digest | null }> {
  const line = new ProgressLine();
  try {
    const signature = await copySignature(source, digest, sink, `the signature of ${name}`, signal);
    const report = await copyImage(source, digest, sink, { name, named, signal, onProgress: line.tell });
    await sink.finish();
    return { ...report, signature };
  } finally {
    line.close();
  }
}

async function copySignature(
  source: Source,
  digest: Digest,
  sink: Sink,
  name: string,
  signal: AbortSignal,
): Promise<Digest | null> {
  const tag = signatureTagOf(digest);
  const signature = await source.tagged(tag, signal);
  if (signature === undefined) return null;
  await copyImage(source, signature, sink, { name, named: { tag }, signal });
  return signature;
}

/** What a command prints of a copy; `--json` prints it as it is. */
export interface CopyResult extends CopyReport {
  readonly reference: string;
  /** Of the image that holds the signature, under cosign's tag. */
  readonly signature: Digest | null;
}

export function showCopy(result: CopyResult, json: true | undefined): number {
  const { reference, digest, blobs, movedBlobs, movedBytes, signature } = result;
  const there = blobs - movedBlobs;
  const text = `${reference}\n${digest}\n${movedBlobs} blobs moved, ${formatBytes(movedBytes)}; ${there} were there\n${signature === null ? "" : "with its signature\n"}`;
  process.stdout.write(json ? JSON.stringify(result, undefined, 2) + "\n" : text);
  return 0;
}
