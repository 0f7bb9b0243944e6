import { once } from "node:events";
import type { Readable } from "node:stream";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { verifying, type Expected } from "../../bundles/oci/digest.ts";
import { withRetries } from "../../bundles/oci/retry.ts";
import type { Source } from "../../bundles/oci/source.ts";

/** An attempt that brought less than this was none. */
const leastProgressBytes = 64 * 1024;

/**
 * A blob as one stream, whose end comes only if every byte was right. A connection that breaks is continued where it was.
 * @param name what errors call it
 * @returns it fails with E_DIGEST, E_CONNECTION, E_TIMEOUT, or the signal's reason
 */
export function blobStream(source: Source, expected: Expected, name: string, signal: AbortSignal): Readable {
  const checked = verifying(expected, name);
  // It may fail before anybody reads; whoever reads then is told.
  checked.on("error", () => {});
  const over = new AbortController();
  checked.once("close", () => over.abort());
  const either = anySignal([signal, over.signal]);
  let bytes = 0;
  let atStart = 0;
  const attempt = async () => {
    atStart = bytes;
    for await (const chunk of (await source.blob(expected, { signal: either, from: bytes })) as AsyncIterable<Buffer>) {
      either.throwIfAborted();
      bytes += chunk.length;
      if (!checked.write(chunk)) await once(checked, "drain", { signal: either });
    }
  };
  withRetries(attempt, { signal: either, hasProgressed: () => bytes - atStart >= leastProgressBytes }).then(
    () => checked.end(),
    (error: unknown) => checked.destroy(signal.aborted ? (signal.reason as Error) : (error as Error)),
  );
  return checked;
}
