import { Readable } from "node:stream";
import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import { createAuthorization } from "./authorization.ts";
import type { Credential } from "../../agent/stream/registry-credentials.ts";
import { algorithmOf, digestOf, isDigest, type Digest } from "./digest.ts";
import {
  connectionError,
  createHttp,
  discard,
  headerOf,
  headersOf,
  isPlainHttp,
  readBody,
  type HttpAnswer,
  type HttpOptions,
  type HttpRequest,
} from "./http.ts";
import { acceptedManifestTypes, largestManifestBytes, type RawManifest } from "./image.ts";
import type { RegistryReference } from "./reference.ts";
import { Busy, readRetryAfter, withRetries } from "./retry.ts";
import type { Source } from "./source.ts";

export interface RegistryOptions extends HttpOptions {
  readonly credential?: Credential | undefined;
  /** What a token is asked for. */
  readonly actions?: "pull" | "pull,push";
}

/** A repository in a registry, spoken to by the OCI distribution API v2. */
export interface Registry extends Source {
  /** What paths are relative to. */
  readonly root: URL;
  /** Sends a request of the API, with a token if one is asked for. The answer may have any status. */
  send(request: Omit<HttpRequest, "url" | "authorization"> & { path: string | URL }): Promise<HttpAnswer>;
  /** Turns an answer that is not what was hoped for into the error to throw. */
  refusal(answer: HttpAnswer, what: string, signal: AbortSignal): Promise<AgentError>;
}

const errorAnswer = z.object({ errors: z.array(z.object({ code: z.string().regex(/^[A-Z_]{1,40}$/) })).min(1) });
const largestAnswerBytes = 64 * 1024;
const dockerHub = "registry-1.docker.io";

export function openRegistry(reference: RegistryReference, options: RegistryOptions): Registry {
  const { host, repository } = reference;
  const http = createHttp(options);
  const scheme = isPlainHttp(host, options) ? "http" : "https";
  const root = new URL(`${scheme}://${host === "docker.io" ? dockerHub : host}/v2/${repository}/`);
  const refusal: Registry["refusal"] = async (answer, what, signal) => {
    const { status } = answer;
    const body = await readBody(answer, largestAnswerBytes, root, signal).catch(() => Buffer.alloc(0));
    // Only the code: a registry's free text could repeat what it was sent.
    const code = errorAnswer.safeParse(parseJson(body)).data?.errors[0]?.code;
    const message = `${host} refused ${what}: HTTP ${status}${code === undefined ? "" : ` ${code}`}`;
    if (status >= 500 || status === 429) return new Busy(message, readRetryAfter(headerOf(answer, "retry-after")));
    const hint =
      status === 401 || status === 403
        ? "log in with OCI_USERNAME/OCI_PASSWORD or a Docker/Podman auth file"
        : undefined;
    return new AgentError("E_INVALID", message, { hint });
  };

  const scope = `repository:${repository}:${options.actions ?? "pull"}`;
  const authorization = createAuthorization({ http, root, credential: options.credential, scope, refusal });

  const send: Registry["send"] = async ({ path, ...request }) => {
    const url = typeof path === "string" ? new URL(path, root) : path;
    const { signal } = request;
    // What is secret to the registry is not sent to where it stores its uploads.
    const isRegistry = url.origin === root.origin;
    const sent = isRegistry ? await authorization.current(signal) : undefined;
    const answer = await http.send({ ...request, url, authorization: sent });
    if (answer.status !== 401 || !isRegistry) return answer;
    // Also when a token was sent: it may have expired, or be for something else.
    const fresh = await authorization.renew(headersOf(answer, "www-authenticate"), sent, signal);
    if (fresh === undefined) return answer;
    discard(answer);
    // A stream is gone: whoever has it has to begin again.
    if (isStream(request.body)) throw new AgentError("E_CONNECTION", `${host} wanted a new token in the middle`);
    return await http.send({ ...request, url, authorization: fresh });
  };

  const headers = { accept: acceptedManifestTypes.join(", ") };

  const getManifest = async (wanted: string, signal: AbortSignal): Promise<RawManifest> => {
    const path = `manifests/${wanted}`;
    const answer = await send({ method: "GET", path, headers, signal });
    if (answer.status !== 200) throw await refusal(answer, `the manifest of ${repository}:${wanted}`, signal);
    const mediaType = headerOf(answer, "content-type")?.split(";")[0]?.trim();
    return { bytes: await readBody(answer, largestManifestBytes, root, signal), mediaType };
  };

  /** What a tag points to; undefined if there is no such tag. Who waits here may have another way: see `onlyWhenAsked`. */
  const findTag = async (tag: string, signal: AbortSignal): Promise<Digest | undefined> => {
    const look = async () => {
      const answer = await send({ method: "HEAD", path: `manifests/${tag}`, headers, signal });
      discard(answer);
      if (answer.status === 404) return undefined;
      const told = headerOf(answer, "docker-content-digest");
      if (answer.status === 200 && told !== undefined && isDigest(told)) return told;
      // Registries need not send the digest; and a refused HEAD has no body that says why.
      return digestOf((await getManifest(tag, signal)).bytes);
    };
    return await withRetries(look, { signal, onlyWhenAsked: true });
  };

  return {
    root,
    send,
    refusal,
    resolve: async (signal) => {
      const digest = await findTag(reference.tag, signal);
      return digest ?? digestOf((await getManifest(reference.tag, signal)).bytes);
    },
    tagged: findTag,
    manifest: getManifest,
    blob: async (expected, { signal, from = 0 }): Promise<Readable> => {
      const path = `blobs/${expected.digest}`;
      let answer: HttpAnswer | undefined;
      if (from > 0) {
        answer = await send({ method: "GET", path, headers: { range: `bytes=${from}-` }, signal });
        // Nothing that a registry makes of ranges is worse than if it knew none.
        if ([206, 416].includes(answer.status) && !isRestFrom(answer, from, expected.size)) {
          discard(answer);
          answer = undefined;
        }
      }
      answer ??= await send({ method: "GET", path, signal });
      if (answer.status !== 200 && answer.status !== 206) {
        throw await refusal(answer, `blob ${shorten(expected.digest)} of ${repository}`, signal);
      }
      // Who does not know ranges sends all of it.
      const skip = answer.status === 206 ? 0 : from;
      return Readable.from(namingFailures(answer.body, root, signal, skip), { objectMode: false });
    },
    close: () => http.close(),
  };
}

/** Whether an answer is the part of a blob that was asked for, by its Content-Range. */
function isRestFrom(answer: HttpAnswer, from: number, size: number): boolean {
  const range = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(headerOf(answer, "content-range") ?? "");
  if (answer.status !== 206 || range === null) return false;
  const [, first, last, total] = range;
  return Number(first) === from && Number(last) === size - 1 && (total === "*" || Number(total) === size);
}

/** A body without its first bytes, whose failures are those of {@link connectionError}. */
async function* namingFailures(body: Readable, url: URL, signal: AbortSignal, skip: number): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      if (skip < chunk.length) yield chunk.subarray(skip);
      skip = Math.max(0, skip - chunk.length);
    }
  } catch (error) {
    throw connectionError(error, url, signal);
  }
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    return undefined;
  }
}

const isStream = (body: HttpRequest["body"]) => body !== undefined && !(body instanceof Uint8Array);
/** A digest as people tell them apart. */
const shorten = (digest: Digest) => digest.slice(0, algorithmOf(digest).length + 13);
