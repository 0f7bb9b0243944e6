import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDirectory } from "../../agent/stream/durable.ts";

/** Halves have this ending; whoever finds one may remove it. */
export const halfSuffix = ".new";

/**
 * Writes a file beside its place, puts it on the disk, and gives it its name. FAT has no rename that a power cut leaves whole, so what must not
 * be lost is not replaced this way.
 * @param chunks the content
 * @throws the system's error, and what the chunks fail with; there is then no half
 */
export async function replaceFile(
  path: string,
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const half = path + halfSuffix;
  try {
    const file = await open(half, "w", 0o644);
    try {
      for await (const chunk of chunks) await file.writeFile(chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(half, path);
  } catch (error) {
    await rm(half, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}
