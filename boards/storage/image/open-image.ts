import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { finished } from "node:stream/promises";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { ContentEncoding } from "../../../agent/driver/resource.ts";
import { decoded } from "../../../agent/stream/codecs.ts";
import { encodingOf } from "../../../agent/stream/detect-encoding.ts";
import { sparseHeader, sparseHeaderBytes, sparsePieces } from "./android-sparse.ts";
import type { Bmap } from "./bmap.ts";
import { mappedPieces } from "./mapped.ts";
import type { ImagePiece } from "./piece.ts";
import { zstdContentBytes } from "./zstd-size.ts";

/** An image whose first bytes have been looked at. */
export interface OpenImage {
  readonly encoding: ContentEncoding | null;
  readonly imageFormat: "raw" | "android-sparse";
  /** It has so many bytes, holes included, or at least so many; undefined when its beginning does not tell. */
  readonly promisedBytes: number | undefined;
  /** Once, in ascending order. */
  readonly pieces: AsyncIterable<ImagePiece>;
  readonly given: GivenBytes;
  /** Of the image, holes included; known at the end of the pieces. */
  readonly bytes: () => number;
  /** Ends what decodes it; the source is the caller's. */
  readonly close: () => void;
}

/** The stream as it comes. */
export interface GivenBytes {
  /** Until now. */
  readonly bytes: () => number;
  /** Asked once, at the end. Undefined when the pieces are all that was given: whoever has the digest of one has that of the other. */
  readonly sha256: () => string | undefined;
}

export interface ImageOptions {
  readonly format?: "auto" | "raw" | undefined;
  readonly bmap?: Bmap | undefined;
  /** Of the stream as it comes, when that is known. */
  readonly givenBytes?: number | undefined;
}

/** Enough for the header of a zstd frame, too. */
const startBytes = sparseHeaderBytes;

/**
 * Finds out what an image is, by its first bytes, and how it is taken apart. Whoever has it closes it.
 * @throws AgentError E_ENCODING for what is damaged or cut off, E_INVALID for a block map of another image; what the source fails with
 */
export async function openImage(
  source: AsyncIterable<Buffer>,
  { format = "auto", bmap, givenBytes: wholeBytes }: ImageOptions,
): Promise<OpenImage> {
  const file = await peek(source);
  const encoding = format === "raw" ? null : encodingOf(file.start);
  const mayBeSparse = format === "auto" && encoding === null;
  const isVerbatim =
    encoding === null && bmap === undefined && !(mayBeSparse && sparseHeader(file.start) !== undefined);
  const hash = isVerbatim ? undefined : createHash("sha256");
  let givenBytes = 0;
  const counted = async function* () {
    for await (const piece of file.all) {
      givenBytes += piece.length;
      hash?.update(piece);
      yield piece;
    }
  };
  const encoded = encoding === null ? undefined : Readable.from(counted(), { objectMode: false });
  // What the source fails with is what the decoder fails with.
  encoded?.on("error", () => {});
  const decoder = encoding === null || encoded === undefined ? undefined : decoded(encoded, encoding);
  // The pieces tell what it fails with. It may also fail when nobody takes them any more.
  decoder?.on("error", () => {});
  try {
    const content = decoder === undefined ? { start: file.start, all: counted() } : await peek(decoder);
    const header = format === "raw" ? undefined : sparseHeader(content.start);
    const plainBytes = encoding === "zstd" ? zstdContentBytes(file.start) : encoding === null ? wholeBytes : undefined;
    const promisedBytes = header?.imageBytes ?? plainBytes;
    if (bmap !== undefined && header !== undefined) mustMatch(bmap, header.imageBytes);
    let bytes = 0;
    const pieces = async function* () {
      for await (const piece of header === undefined ? placed(content.all) : sparsePieces(content.all, header)) {
        yield piece;
        bytes = piece.at + piece.bytes.length;
      }
      bytes = header?.imageBytes ?? bytes;
      // Zeros behind a gzip member mean nothing, but are part of what was given.
      if (encoded?.readableEnded === false) await finished(encoded.unpipe().resume());
    };
    const mapped = async function* (map: Bmap) {
      yield* mappedPieces(pieces(), map);
      mustMatch(map, bytes);
    };
    return {
      encoding,
      imageFormat: header === undefined ? "raw" : "android-sparse",
      promisedBytes: bmap?.imageBytes ?? promisedBytes,
      pieces: bmap === undefined ? pieces() : mapped(bmap),
      given: { bytes: () => givenBytes, sha256: () => hash?.digest("hex") },
      bytes: () => bytes,
      close: () => decoder?.destroy(),
    };
  } catch (error) {
    decoder?.destroy();
    throw error;
  }
}

/** The first bytes of a stream, or all when there are fewer, and the whole stream. */
async function peek(source: AsyncIterable<Buffer>): Promise<{ start: Buffer; all: AsyncIterable<Buffer> }> {
  const rest = source[Symbol.asyncIterator]();
  const parts: Buffer[] = [];
  for (let bytes = 0; bytes < startBytes;) {
    const next = await rest.next();
    if (next.done === true) break;
    parts.push(next.value);
    bytes += next.value.length;
  }
  const all = async function* () {
    yield* parts;
    yield* { [Symbol.asyncIterator]: () => rest };
  };
  return { start: Buffer.concat(parts).subarray(0, startBytes), all: all() };
}

async function* placed(pieces: AsyncIterable<Buffer>): AsyncGenerator<ImagePiece, void, undefined> {
  let at = 0;
  for await (const bytes of pieces) {
    yield { at, bytes };
    at += bytes.length;
  }
}

function mustMatch(bmap: Bmap, bytes: number): void {
  if (bmap.imageBytes === bytes) return;
  throw new AgentError(
    "E_INVALID",
    `the block map is that of another image: of ${bmap.imageBytes} bytes, not of ${bytes}`,
  );
}
