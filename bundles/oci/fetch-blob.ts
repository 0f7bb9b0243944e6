import { createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { verifying, type Expected } from "./digest.ts";
import { withRetries } from "./retry.ts";
import type { TransferOptions } from "./sink.ts";
import type { Source } from "./source.ts";

/** Writes a blob to a file, checked and synced. */
export async function fetchBlob(
  source: Pick<Source, "blob">,
  expected: Expected,
  path: string,
  { name, signal }: TransferOptions,
): Promise<void> {
  await withRetries(
    async () => {
      try {
        const content = await source.blob(expected, { signal });
        await pipeline(content, verifying(expected, name), createWriteStream(path, { flush: true }), { signal });
      } catch (error) {
        await rm(path, { force: true });
        throw error;
      }
    },
    { signal },
  );
}
