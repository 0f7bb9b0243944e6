import { open, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { Transform, Writable, type TransformCallback } from "node:stream";
import { finished } from "node:stream/promises";
import { BmapWriter } from "../../boards/storage/image/bmap-writer.ts";
import { AgentError } from "../driver/errors.ts";
import type { ContentEncoding } from "../driver/resource.ts";
import { encoded } from "../stream/codecs.ts";
import { promisedEncoding } from "../stream/detect-encoding.ts";
import { syncDirectory, writeDurably } from "../stream/durable.ts";
import { sparseFileSink } from "../stream/sparse-file.ts";

/** What the name of a dump promises: `card.img.zst`, `card.simg`, `card.simg.gz`. */
export interface DumpForm {
  readonly format: "raw" | "android-sparse";
  readonly encoding: ContentEncoding | null;
}

export function dumpForm(path: string): DumpForm {
  const encoding = promisedEncoding(path) ?? null;
  const stem = encoding === null ? path : path.slice(0, path.lastIndexOf("."));
  return { format: stem.toLowerCase().endsWith(".simg") ? "android-sparse" : "raw", encoding };
}

/**
 * Writes a dump into a file that gets its name when it is whole and on the disk. What is zero becomes holes, unless it is encoded.
 * @param encoding what is done to the bytes here
 * @param bmapPath where the block map of the bytes goes
 */
export async function withDumpFile<T>(
  path: string,
  { encoding, bmapPath }: { readonly encoding: ContentEncoding | null; readonly bmapPath?: string | undefined },
  use: (sink: Writable) => Promise<T>,
): Promise<T> {
  const before = await stat(path).catch(() => undefined);
  if (before !== undefined && !before.isFile()) throw new AgentError("E_INVALID", `${path} is no regular file`);
  const beside = `${path}.part`;
  const file = await open(beside, "w");
  try {
    const plain = sparseFileSink(file);
    const coded = encoding === null ? plain : encoded(plain, encoding);
    const map = bmapPath === undefined ? undefined : new BmapWriter();
    const sink = map === undefined ? coded : mapped(coded, map);
    const done = finished(plain);
    done.catch(() => {});
    const result = await use(sink);
    await done;
    await file.sync();
    await rename(beside, path);
    if (bmapPath !== undefined && map !== undefined) await writeDurably(bmapPath, map.finish());
    await syncDirectory(dirname(path));
    return result;
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

function mapped(sink: Writable, map: BmapWriter): Writable {
  const tap = new Transform({
    transform(bytes: Buffer, _encoding, done: TransformCallback) {
      map.update(bytes);
      done(null, bytes);
    },
  });
  sink.once("error", (error) => tap.destroy(error));
  tap.pipe(sink);
  return tap;
}
