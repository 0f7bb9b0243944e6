import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { rm, stat } from "node:fs/promises";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { algorithmOf, type Expected } from "./digest.ts";
import { withRetries } from "./retry.ts";
import type { TransferOptions } from "./sink.ts";
import type { Source } from "./source.ts";

/**
 * Writes a blob to a file, checked and synced. A file that is there already is taken for its first part.
 * @throws AgentError E_DIGEST, and then there is no file; E_CONNECTION, E_TIMEOUT
 */
export async function fetchBlob(
  source: Pick<Source, "blob">,
  expected: Expected,
  path: string,
  { name, signal, onProgress }: TransferOptions,
): Promise<void> {
  await withRetries(
    async () => {
      const hash = createHash(algorithmOf(expected.digest));
      let from = await stat(path).then(
        ({ size }) => size,
        () => 0,
      );
      if (from > expected.size) {
        await rm(path, { force: true });
        from = 0;
      }
      if (from > 0) for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
      let bytes = from;
      onProgress?.(bytes);
      const checked = new Transform({
        transform(chunk: Buffer, _encoding, done) {
          bytes += chunk.length;
          if (bytes > expected.size) {
            done(new AgentError("E_DIGEST", `${name} is longer than the ${expected.size} bytes it should have`));
            return;
          }
          hash.update(chunk);
          onProgress?.(bytes);
          done(null, chunk);
        },
      });
      try {
        const isComplete = from > 0 && from === expected.size;
        const content = isComplete ? Readable.from([]) : await source.blob(expected, { signal, from });
        await pipeline(content, checked, createWriteStream(path, { flags: "a", flush: true }), { signal });
        if (bytes < expected.size) {
          throw new AgentError("E_DIGEST", `${name} ends after ${bytes} of ${expected.size} bytes`);
        }
        const got = `${algorithmOf(expected.digest)}:${hash.digest("hex")}`;
        if (got !== expected.digest) {
          const wanted = expected.digest;
          throw new AgentError("E_DIGEST", `${name} is not what its digest says: expected ${wanted}, got ${got}`);
        }
      } catch (error) {
        if (error instanceof AgentError && error.code === "E_DIGEST") await rm(path, { force: true });
        throw error;
      }
    },
    { signal },
  );
}
