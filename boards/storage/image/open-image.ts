import { once } from "node:events";
import type { Duplex } from "node:stream";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { ContentEncoding } from "../../../agent/driver/resource.ts";
import { readFully, type ByteSource } from "../../../agent/stream/byte-source.ts";
import { openDecoder } from "../../../agent/stream/codecs.ts";
import { encodingOf } from "../../../agent/stream/detect-encoding.ts";
import { sparseExtents, sparseHeader, sparseHeaderBytes } from "./android-sparse.ts";
import type { Bmap } from "./bmap.ts";
import type { Extent } from "./extent.ts";
import { mappedExtents } from "./mapped.ts";
import { zstdContentBytes } from "./zstd-size.ts";

/** An image whose first bytes have been looked at. */
export interface OpenImage {
  readonly encoding: ContentEncoding | null;
  readonly imageFormat: "raw" | "android-sparse";
  /** It has so many bytes, holes included, or at least so many; undefined when its beginning does not tell. */
  readonly promisedBytes: number | undefined;
  /** Once, in ascending order. */
  readonly extents: AsyncIterable<Extent>;
  /** Of the stream as it came, until now. */
  readonly givenBytes: () => number;
  /** Of the image, holes included; known at the end of the extents. */
  readonly bytes: () => number;
  /** Ends what decodes it, and resolves when it has gone; the source is the caller's. */
  readonly close: () => Promise<void>;
}

export interface ImageOptions {
  readonly format?: "auto" | "raw" | undefined;
  readonly bmap?: Bmap | undefined;
  /** Of the stream as it comes, when that is known. */
  readonly givenBytes?: number | undefined;
  /**
   * Told all bytes of the stream as they come, until it resolves; never called when they are the bytes of the extents: whoever has the digest
   * of one has that of the other.
   */
  readonly onGiven?: ((bytes: Buffer) => Promise<void>) | undefined;
}

/** Enough for the header of a zstd frame, too. */
const startBytes = sparseHeaderBytes;
/** Of what is told in one go. */
const mostBytes = 1024 * 1024;
/** Of what a decoder is given in one go. */
const fedBytes = 256 * 1024;

/**
 * Finds out what an image is, by its first bytes, and how it is taken apart. Whoever has it closes it.
 * @throws AgentError E_ENCODING for what is damaged or cut off, E_INVALID for a block map of another image; what the source fails with
 */
export async function openImage(
  source: ByteSource,
  { format = "auto", bmap, givenBytes: wholeBytes, onGiven }: ImageOptions,
): Promise<OpenImage> {
  const file = await peek(source);
  const encoding = format === "raw" ? null : encodingOf(file.start);
  const mayBeSparse = format === "auto" && encoding === null;
  const isVerbatim =
    encoding === null && bmap === undefined && !(mayBeSparse && sparseHeader(file.start) !== undefined);
  const tell = isVerbatim ? undefined : onGiven;
  let givenBytes = 0;
  const given: ByteSource = {
    async read(memory) {
      const count = await file.all.read(tell === undefined ? memory : memory.subarray(0, mostBytes));
      givenBytes += count;
      await tell?.(memory.subarray(0, count));
      return count;
    },
  };
  const decoder = encoding === null ? undefined : await openDecoder(encoding);
  // Who reads the content is told what it fails with. It may also fail when nobody does any more.
  decoder?.input.on("error", () => {});
  const close = async (): Promise<void> => {
    if (decoder?.input.closed === false) await once(decoder.input.destroy(), "close");
  };
  const feeding = decoder === undefined ? undefined : feed(given, decoder.input);
  try {
    const content = decoder === undefined ? { start: file.start, all: given } : await peek(decoder.content);
    const header = format === "raw" ? undefined : sparseHeader(content.start);
    const plainBytes = encoding === "zstd" ? zstdContentBytes(file.start) : encoding === null ? wholeBytes : undefined;
    const promisedBytes = header?.imageBytes ?? plainBytes;
    if (bmap !== undefined && header !== undefined) mustMatch(bmap, header.imageBytes);
    let bytes = 0;
    const plain = async function* (): AsyncGenerator<Extent, void, undefined> {
      yield {
        at: 0,
        async read(memory) {
          const count = await content.all.read(memory);
          bytes += count;
          return count;
        },
      };
    };
    const extents = async function* () {
      yield* header === undefined ? plain() : sparseExtents(content.all, header);
      bytes = header?.imageBytes ?? bytes;
      // Zeros behind a gzip member mean nothing, but are part of what was given.
      await feeding;
    };
    const mapped = async function* (map: Bmap) {
      yield* mappedExtents(extents(), map);
      mustMatch(map, bytes);
    };
    return {
      encoding,
      imageFormat: header === undefined ? "raw" : "android-sparse",
      promisedBytes: bmap?.imageBytes ?? promisedBytes,
      extents: bmap === undefined ? extents() : mapped(bmap),
      givenBytes: () => givenBytes,
      bytes: () => bytes,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The first bytes of a source, or all when there are fewer, and the whole source. */
async function peek(source: ByteSource): Promise<{ start: Buffer; all: ByteSource }> {
  const memory = Buffer.alloc(startBytes);
  const start = memory.subarray(0, await readFully(source, memory));
  let rest = start;
  const read = (into: Buffer): Promise<number> | number => {
    if (rest.length === 0) return source.read(into);
    const count = rest.copy(into);
    rest = rest.subarray(count);
    return count;
  };
  return { start, all: { read: async (into) => read(into) } };
}

/**
 * Puts a source through a decoder, reading on while that works, to its end: also what the decoder does not take any more. What the source fails
 * with is what the decoder fails with.
 */
async function feed(source: ByteSource, decoder: Duplex): Promise<void> {
  let [free, taken] = [Buffer.alloc(fedBytes), Buffer.alloc(fedBytes)];
  let taking = Promise.resolve();
  try {
    for (;;) {
      const count = await source.read(free);
      await taking;
      if (count === 0) break;
      if (decoder.readableEnded) continue;
      if (decoder.destroyed) return;
      [free, taken] = [taken, free];
      const bytes = taken.subarray(0, count);
      // What it fails with is for who reads the content.
      taking = new Promise((resolve) => decoder.write(bytes, () => resolve()));
    }
    decoder.end();
  } catch (error) {
    decoder.destroy(error as Error);
  }
}

function mustMatch(bmap: Bmap, bytes: number): void {
  if (bmap.imageBytes === bytes) return;
  throw new AgentError(
    "E_INVALID",
    `the block map is that of another image: of ${bmap.imageBytes} bytes, not of ${bytes}`,
  );
}
