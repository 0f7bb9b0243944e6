import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { PassThrough, type Duplex, type Readable, type Writable } from "node:stream";
import zlib from "node:zlib";
import { AgentError } from "../driver/errors.ts";
import type { ContentEncoding } from "../driver/resource.ts";
import { youngCollector } from "../sys/collector.ts";
import { InputPipe } from "../sys/pipe.ts";
import { bytesOf, type ByteSource } from "./byte-source.ts";
import { CodecProcess } from "./codec-process.ts";
import { mapErrors } from "./map-errors.ts";

/** Fewer, larger pieces: each costs a trip through the thread pool. */
const chunkSize = 1024 * 1024;

/** What decoded pieces may pile up. */
const mostGarbageBytes = 16 * chunkSize;

/** Programs that do what Node's zlib does not; as child processes they also leave the event loop alone. */
const programs = { xz: "xz", bz2: "bzip2", zstd: "zstd" } as const;
type Program = keyof typeof programs;

type MakeCodec = (options: { chunkSize: number }) => Duplex;

/** Node has zstd from 22.15 on; its types here are those of 20. */
const nodeZstd = zlib as unknown as { createZstdDecompress?: MakeCodec; createZstdCompress?: MakeCodec };

/**
 * True if this machine can decode and encode it: a missing program makes an encoding unsupported, and so does
 * `JMP_DISABLE_COMPRESSION=1` for all of them.
 */
export function supportsEncoding(encoding: ContentEncoding): boolean {
  if (process.env["JMP_DISABLE_COMPRESSION"] === "1") return false;
  if (encoding === "gzip" || (encoding === "zstd" && nodeZstd.createZstdDecompress !== undefined)) return true;
  return isInstalled(programs[encoding]);
}

function isInstalled(program: string): boolean {
  return (process.env["PATH"] ?? "").split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * Plain bytes of a stream in this encoding (null: as they are). Fails with E_ENCODING if they are damaged, cut off,
 * or none at all. What happens to the result does not happen to the stream: whoever lent it ends it.
 */
export function decoded(from: Readable, encoding: ContentEncoding | null): Readable {
  const decoder = encoding === null ? new PassThrough({ highWaterMark: chunkSize }) : createDecoder(encoding);
  let empty = true;
  if (encoding !== null) {
    from.once("data", () => (empty = false));
    from.once("end", () => {
      if (empty) decoder.destroy(new AgentError("E_ENCODING", `${encoding} data expected, but there is none`));
    });
  }
  from.once("close", () => {
    if (!from.readableEnded) decoder.destroy(from.errored ?? broken());
  });
  decoder.once("close", () => from.unpipe(decoder));
  return from.pipe(decoder);
}

/** A decoder whose content is read into memory of the reader. */
export interface Decoder {
  /** Takes the encoded bytes. What it is destroyed with is what reading fails with. */
  readonly input: Duplex;
  readonly content: ByteSource;
}

/** Reading fails with E_ENCODING if the bytes are damaged or cut off, E_UNSUPPORTED if the program for them is not installed. */
export async function openDecoder(encoding: ContentEncoding): Promise<Decoder> {
  if (encoding !== "gzip" && isInstalled(programs[encoding])) {
    // Where no native code can be loaded, the program's output comes as Node has it.
    const output = await InputPipe.open().catch(() => undefined);
    const program = new CodecProcess(programs[encoding], ["-d", "-c"], output);
    return { input: program, content: program.content };
  }
  const decoder = createDecoder(encoding);
  return { input: decoder, content: collected(bytesOf(decoder)) };
}

/** Of a source whose pieces are memory of their own each: what was read is soon collected. */
function collected(source: ByteSource): ByteSource {
  const collect = youngCollector();
  let garbageBytes = 0;
  return {
    async read(memory) {
      const count = await source.read(memory);
      garbageBytes += count;
      if (garbageBytes >= mostGarbageBytes) {
        collect();
        garbageBytes = 0;
      }
      return count;
    },
  };
}

/** Takes plain bytes and writes them encoded to a stream, which ends after them, also when that fails halfway. */
export function encoded(to: Writable, encoding: ContentEncoding | null): Writable {
  const encoder = encoding === null ? new PassThrough({ highWaterMark: chunkSize }) : createEncoder(encoding);
  to.once("close", () => {
    if (!to.writableFinished) encoder.destroy(to.errored ?? broken());
  });
  encoder.once("close", () => {
    if (!to.destroyed) to.end();
  });
  encoder.pipe(to);
  return encoder;
}

function broken(): AgentError {
  return new AgentError("E_CONNECTION", "the stream broke before its end");
}

function createDecoder(encoding: ContentEncoding): Duplex {
  const make = encoding === "gzip" ? zlib.createUnzip : encoding === "zstd" ? nodeZstd.createZstdDecompress : undefined;
  if (make === undefined) return new CodecProcess(programs[encoding as Program], ["-d", "-c"]);
  const decoder = make({ chunkSize });
  // zlib's own words ("incorrect header check") do not say what was being read; its numbers are not those of the system.
  mapErrors(decoder, (error) =>
    isOfZlib(error) ? new AgentError("E_ENCODING", `${encoding}: ${error.message}`, { cause: error }) : error,
  );
  return decoder;
}

/** Everything else is why somebody ended the stream: an abort, or what its source failed with. */
function isOfZlib(error: Error): boolean {
  return "code" in error && /^(Z|ZSTD)_/.test(String(error.code));
}

function createEncoder(encoding: ContentEncoding): Duplex {
  const make = encoding === "gzip" ? zlib.createGzip : encoding === "zstd" ? nodeZstd.createZstdCompress : undefined;
  return make?.({ chunkSize }) ?? new CodecProcess(programs[encoding as Program], ["-c"]);
}
