import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { pipeline, Readable, Transform } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import type { ContentEncoding } from "../../agent/driver/resource.ts";
import { FileStream } from "../../agent/stream/byte-source.ts";
import { encodingOf, magicBytes, promisedEncoding } from "../../agent/stream/detect-encoding.ts";
import { verifying } from "../oci/digest.ts";
import { connectionError, createHttp, discard, headerOf, type Http, type HttpAnswer } from "../oci/http.ts";
import { isUnreachable } from "../oci/retry.ts";
import { locateOciImage, type RegistryAccess } from "./oci-image.ts";

const chunkBytes = 2 ** 20;
/** Waits before a broken download is continued; they count anew after progress. */
const continueDelaysMs = [500, 2_000, 5_000];
/** A connection that brought less than this has brought nothing. */
const leastProgressBytes = 16 * 1024;

/** An image, wherever it lies. */
export interface ImageSource {
  /** As the user named it, without credentials and queries. */
  readonly name: string;
  /** Undefined if a server does not tell. */
  readonly bytes: number | undefined;
  readonly encoding: ContentEncoding | null;
  /** Digest that the bytes as given must have, in hexadecimal. */
  readonly sha256?: string | undefined;
  /** Path of an image that is a file here. */
  readonly path?: string | undefined;
  /** The bytes as given, from the first on; at their end E_DIGEST unless they are those that were asked for. May be called again. */
  open(signal: AbortSignal): Promise<Readable>;
  close(): Promise<void>;
}

export interface ImageSourceOptions {
  readonly signal: AbortSignal;
  /** Sent to the host of the URL, and to no other that it redirects to. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly bearerToken?: string | undefined;
  /** PEM text of authorities that servers and registries may use beside the usual ones. */
  readonly ca?: string | undefined;
  /** Digest that the user was told, in hexadecimal. */
  readonly sha256?: string | undefined;
  readonly registry?: RegistryAccess | undefined;
}

/**
 * Finds an image and looks at its first bytes.
 * @param text a path, `http://…`, `https://…`, `oci://HOST/NAME:TAG`, or `oci-layout:DIR[:TAG]`
 * @throws AgentError E_INVALID if it is none, empty, or named like an encoding that it is not in; E_CONNECTION, E_TIMEOUT
 */
export async function openImageSource(text: string, options: ImageSourceOptions): Promise<ImageSource> {
  const found = await locate(text, options);
  try {
    const start = await firstBytes(await found.open(options.signal));
    if (start.length === 0) throw new AgentError("E_INVALID", `${found.name} is empty`);
    const encoding = encodingOf(start);
    const promised = promisedEncoding(found.name);
    if (promised !== undefined && promised !== encoding) {
      throw new AgentError("E_INVALID", `${basename(found.name)} does not begin like ${promised} data`);
    }
    const { sha256 } = options;
    const open = async (signal: AbortSignal) => asAsked(await found.open(signal), sha256, found.name);
    return { ...found, open, encoding, sha256 };
  } catch (error) {
    await found.close();
    throw error;
  }
}

type Located = Pick<ImageSource, "name" | "bytes" | "path" | "open" | "close">;

function asAsked(content: Readable, sha256: string | undefined, name: string): Readable {
  if (sha256 === undefined) return content;
  const hash = createHash("sha256");
  const checked = new Transform({
    highWaterMark: chunkBytes,
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
    flush(done) {
      const found = hash.digest("hex");
      const message = `${name} is not the image that was asked for: sha256 ${found}, not ${sha256}`;
      done(found === sha256 ? null : new AgentError("E_DIGEST", message));
    },
  });
  return pipeline(content, checked, () => {});
}

async function locate(text: string, options: ImageSourceOptions): Promise<Located> {
  if (/^https?:\/\//i.test(text)) return await locateUrl(text, options);
  if (/^(oci:\/\/|oci-layout:)/.test(text)) {
    const image = await locateOciImage(text, options);
    const { name, expected } = image;
    const open = (signal: AbortSignal) => {
      const blob = Readable.from(
        continued((from) => image.openBlob(from, signal), signal),
        { objectMode: false },
      );
      const checked = verifying(expected, name);
      pipeline(blob, checked, () => {});
      return Promise.resolve(image.content(checked));
    };
    return { name, bytes: undefined, open, close: () => image.close() };
  }
  const found = await stat(text);
  if (!found.isFile()) throw new AgentError("E_INVALID", `${text} is not a file`);
  const open = (signal: AbortSignal) => FileStream.open(text, { signal });
  return { name: text, path: text, bytes: found.size, open, close: () => Promise.resolve() };
}

async function locateUrl(text: string, options: ImageSourceOptions): Promise<Located> {
  const { signal, ca } = options;
  if (!URL.canParse(text)) throw new AgentError("E_INVALID", "the image's address is malformed");
  const url = new URL(text);
  if (url.username !== "" || url.password !== "") {
    throw new AgentError("E_INVALID", "an address of an image must not hold a password", {
      hint: "everybody on this host can read it in the list of processes; use --bearer-token-file or --header-file",
    });
  }
  // Who writes http:// wants it; a redirect from https:// to http:// is still refused.
  const plainHttp = url.protocol === "http:" ? "any" : [];
  const http = createHttp({ plainHttp, ca });
  const name = `${url.origin}${url.pathname}`;
  const get = { http, url, name, options };
  const { answer } = await openUrl(get, 0, undefined, signal);
  discard(answer);
  const length = Number(headerOf(answer, "content-length") ?? NaN);
  const version = headerOf(answer, "etag") ?? headerOf(answer, "last-modified");
  const open = (during: AbortSignal) =>
    Promise.resolve(
      Readable.from(
        continued(async (from) => (await openUrl(get, from, version, during)).body, during),
        {
          objectMode: false,
        },
      ),
    );
  return { name, bytes: Number.isSafeInteger(length) ? length : undefined, open, close: () => http.close() };
}

interface Download {
  readonly http: Http;
  readonly url: URL;
  readonly name: string;
  readonly options: ImageSourceOptions;
}

/** @param version ETag or date of what the first bytes were from; the rest must be from the same */
async function openUrl(
  { http, url, name, options: { headers, bearerToken } }: Download,
  from: number,
  version: string | undefined,
  signal: AbortSignal,
): Promise<{ answer: HttpAnswer; body: AsyncIterable<Buffer> }> {
  const rest = from === 0 ? {} : { range: `bytes=${from}-`, ...(version && { "if-range": version }) };
  const answer = await http.send({
    method: "GET",
    url,
    headers: { "accept-encoding": "identity", ...rest },
    privateHeaders: headers,
    authorization: bearerToken === undefined ? undefined : `Bearer ${bearerToken}`,
    signal,
  });
  const isRest = answer.status === 206 && headerOf(answer, "content-range")?.startsWith(`bytes ${from}-`) === true;
  if (answer.status === 200 ? from === 0 : isRest) return { answer, body: namedFailures(answer, url, signal) };
  discard(answer);
  if (answer.status >= 500 || answer.status === 429) {
    throw new AgentError("E_CONNECTION", `${url.host} refused ${name}: HTTP ${answer.status}`);
  }
  const problem = from > 0 ? `cannot be continued after ${from} bytes` : "is not to be had";
  throw new AgentError("E_FAILED", `${name} ${problem}: HTTP ${answer.status}`);
}

async function* namedFailures({ body }: HttpAnswer, url: URL, signal: AbortSignal): AsyncGenerator<Buffer> {
  try {
    yield* body as AsyncIterable<Buffer>;
  } catch (error) {
    throw connectionError(error, url, signal);
  }
}

/** A stream that goes on where a broken connection ended it. */
async function* continued(
  openAt: (from: number) => Promise<AsyncIterable<Buffer>>,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  let bytes = 0;
  for (let failures = 0; ; failures += 1) {
    const before = bytes;
    try {
      for await (const chunk of await openAt(bytes)) {
        bytes += chunk.length;
        yield chunk;
      }
      return;
    } catch (error) {
      if (bytes - before >= leastProgressBytes) failures = 0;
      const delayMs = continueDelaysMs[failures];
      if (signal.aborted || !isUnreachable(error) || delayMs === undefined) throw error;
      await sleep(delayMs, undefined, { signal });
    }
  }
}

/** As many as tell the encoding; then the stream is let go. */
async function firstBytes(stream: Readable): Promise<Buffer> {
  let start = Buffer.alloc(0);
  for await (const chunk of stream) {
    start = Buffer.concat([start, chunk as Buffer]);
    if (start.length >= magicBytes) break;
  }
  return start;
}
