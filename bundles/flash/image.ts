import { once } from "node:events";
import { createHash, randomBytes } from "node:crypto";
import { PassThrough, type Readable, type Writable } from "node:stream";
import { AgentError } from "../../agent/driver/errors.ts";
import type { ContentEncoding, ResourceHandle } from "../../agent/driver/resource.ts";
import type { Calls } from "../../agent/driver/interface.ts";
import { decoded } from "../../agent/stream/codecs.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import type { opendal } from "../../boards/storage/interface.ts";
import type { ImageSource } from "./image-source.ts";

const chunkBytes = 2 ** 20;
const androidSparseMagic = 0xed26ff3a;

/** An image that the board can fetch, and what its disk must hold afterwards. */
export interface StagedImage {
  /** Its name on the HTTP server; needs no quoting. */
  readonly name: string;
  /** How the served bytes are encoded. */
  readonly encoding: ContentEncoding | null;
  /** Digest of the file as given. */
  readonly sha256: string;
  /** Length and digest of what belongs on the disk. */
  readonly content: { readonly bytes: number; readonly sha256: string };
}

/** Where an image is put for the board to fetch. */
export interface ImageStore {
  readonly files: Calls<typeof opendal>;
  /** Lends a local stream to one call of `files`. */
  lend<T>(source: Readable, use: (handle: ResourceHandle) => Promise<T>): Promise<T>;
}

async function removeLeftovers(files: Calls<typeof opendal>, prefix: string): Promise<void> {
  for await (const name of files.list("/")) {
    if (name.startsWith(prefix) && name.endsWith(".img")) await files.delete(name);
  }
}

/**
 * Copies an image to the HTTP server's files and digests it on the way, as it is and decoded. Small systems on
 * boards seldom have zstd, so those images are served decoded; the others are smaller on the wire as they are.
 * @param owner who flashes, if that can be only one at a time: what a flash of its that was killed has left is removed
 * @param onProgress bytes of the file that were read
 */
export async function stageImage(
  image: ImageSource,
  store: ImageStore,
  { signal, owner, onProgress }: { signal: AbortSignal; owner?: string; onProgress?: (bytes: number) => void },
): Promise<StagedImage> {
  const serveDecoded = image.encoding === "zstd";
  const prefix =
    owner === undefined ? "flash-" : `flash-${createHash("sha256").update(owner).digest("hex").slice(0, 16)}-`;
  const name = `${prefix}${randomBytes(8).toString("hex")}.img`;
  if (owner !== undefined) await removeLeftovers(store.files, prefix);
  const stop = new AbortController();
  const stopped = anySignal([signal, stop.signal]);
  const given = new Meter();
  // An image that is not encoded need not be digested twice.
  const content = image.encoding === null ? given : new Meter();
  const upload = new PassThrough({ highWaterMark: chunkBytes });
  const toDecode = new PassThrough({ highWaterMark: chunkBytes });

  const read = async () => {
    for await (const chunk of await image.open(stopped)) {
      if (given.bytes === 0 && image.encoding === null) refuseSparse(chunk as Buffer, image.name);
      given.take(chunk as Buffer);
      onProgress?.(given.bytes);
      if (image.encoding !== null) await write(toDecode, chunk as Buffer, stopped);
      if (!serveDecoded) await write(upload, chunk as Buffer, stopped);
    }
    toDecode.end();
    if (!serveDecoded) upload.end();
  };
  const decode = async () => {
    if (image.encoding === null) return;
    for await (const chunk of decoded(toDecode, image.encoding)) {
      content.take(chunk as Buffer);
      if (content.bytes === (chunk as Buffer).length) refuseSparse(chunk as Buffer, image.name);
      if (serveDecoded) await write(upload, chunk as Buffer, stopped);
    }
    if (serveDecoded) upload.end();
  };
  const send = () =>
    store.lend(upload, async (handle) => {
      const fd = await store.files.open(name, "wb");
      await store.files.file_write(fd, handle);
      await store.files.file_close(fd);
    });

  const tasks = [read(), decode(), send()];
  try {
    await Promise.all(tasks);
  } catch (error) {
    stop.abort();
    toDecode.destroy();
    upload.destroy();
    await Promise.allSettled(tasks);
    await store.files.delete(name).catch(() => {});
    throw error;
  }
  return {
    name,
    encoding: serveDecoded ? null : image.encoding,
    sha256: given.sha256(),
    content: { bytes: content.bytes, sha256: content.sha256() },
  };
}

/** The board's tools would write such a file as it is. */
function refuseSparse(start: Buffer, name: string): void {
  if (start.length < 4 || start.readUInt32LE(0) !== androidSparseMagic) return;
  throw new AgentError("E_UNSUPPORTED", `${name} is an Android sparse image, which the board cannot write`, {
    hint: "make a raw image of it with simg2img",
  });
}

/** Counts and digests bytes. */
class Meter {
  readonly #hash = createHash("sha256");
  #digest: string | undefined;
  bytes = 0;

  take(chunk: Buffer): void {
    this.#hash.update(chunk);
    this.bytes += chunk.length;
  }

  /** Hexadecimal; nothing more can be taken then. */
  sha256(): string {
    return (this.#digest ??= this.#hash.digest("hex"));
  }
}

/** Writes and waits for room. */
async function write(to: Writable, chunk: Buffer, signal: AbortSignal): Promise<void> {
  if (!to.write(chunk)) await once(to, "drain", { signal });
}
