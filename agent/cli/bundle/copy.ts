import { copyImage, type CopyReport } from "../../../bundles/oci/copy.ts";
import type { ImageName, Sink } from "../../../bundles/oci/sink.ts";
import type { OpenedPlace } from "./places.ts";
import { ProgressLine, sizeText } from "./progress.ts";

/** Copies an image for a command that a person or a script waits for. */
export async function copyShown(
  { name, source, digest }: Pick<OpenedPlace, "name" | "source" | "digest">,
  sink: Sink,
  named: ImageName,
  signal: AbortSignal,
): Promise<CopyReport> {
  const line = new ProgressLine();
  try {
    const report = await copyImage(source, digest, sink, { name, named, signal, onProgress: line.tell });
    await sink.finish();
    return report;
  } finally {
    line.close();
  }
}

/** What a command prints of a copy; `--json` prints it as it is. */
export interface CopyResult extends CopyReport {
  readonly reference: string;
}

export function showCopy(result: CopyResult, json: true | undefined): number {
  const { reference, digest, blobs, movedBlobs, movedBytes } = result;
  const there = blobs - movedBlobs;
  const text = `${reference}\n${digest}\n${movedBlobs} blobs moved, ${sizeText(movedBytes)}; ${there} were there\n`;
  process.stdout.write(json ? JSON.stringify(result, undefined, 2) + "\n" : text);
  return 0;
}
