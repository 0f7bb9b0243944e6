/**
 * Resources named by a URL: the exporter itself fetches (GET) or fills (PUT) them. URLs are signed, so their
 * percent-encoding is sent exactly as it came; WHATWG URL and most HTTP clients would tidy it.
 */
import http from "node:http";
import https from "node:https";
import { Writable, type Readable } from "node:stream";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { decoded } from "./codecs.ts";
import { mapErrors } from "./map-errors.ts";

export interface PresignedRequest {
  readonly method: "GET" | "PUT";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface PresignedOptions {
  /** For the whole transfer. */
  readonly timeoutMs?: number;
}

const defaultTimeoutMs = 7_200_000;
const mostRedirects = 10;
const redirects = new Set([301, 302, 303, 307, 308]);

/** Headers that prove who asks: they stay with the origin they were made for. */
const secretHeaders = /^(authorization|cookie|proxy-authorization|x-amz-|x-ms-|x-goog-)/i;

/** The body of a GET, redirects followed. @throws AgentError E_FAILED, E_TIMEOUT, E_INVALID (no such URL) */
export async function presignedSource(
  asked: PresignedRequest,
  signal: AbortSignal,
  { timeoutMs = defaultTimeoutMs }: PresignedOptions = {},
): Promise<Readable> {
  const transfer = new Transfer(asked, signal, timeoutMs);
  if (asked.method !== "GET") throw new AgentError("E_INVALID", "this resource can only be written");
  try {
    let request = asked;
    for (let hops = 0; ; hops += 1) {
      const response = await transfer.fetchHead(request);
      const status = response.statusCode ?? 0;
      if (!redirects.has(status)) return transfer.body(transfer.check(response));
      response.destroy();
      if (hops === mostRedirects) {
        throw new AgentError("E_FAILED", `Too many redirects (${mostRedirects}) for ${transfer.safeUrl}`);
      }
      request = redirected(request, response.headers.location, transfer.safeUrl);
    }
  } catch (error) {
    transfer.over();
    throw transfer.explain(error);
  }
}

/**
 * Takes the body of a PUT. It finishes when the server has accepted all of it.
 * @throws AgentError E_INVALID (no such URL); later failures destroy the stream
 */
export function presignedSink(
  asked: PresignedRequest,
  signal: AbortSignal,
  { timeoutMs = defaultTimeoutMs }: PresignedOptions = {},
): Writable {
  if (asked.method !== "PUT") throw new AgentError("E_INVALID", "this resource can only be read");
  const transfer = new Transfer(asked, signal, timeoutMs);
  const request = transfer.request(asked);
  const answered = new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once("response", resolve);
    request.on("error", reject);
  });
  answered.catch(() => {});
  const sink = new Writable({
    final: (done) => {
      request.end();
      answered
        .then((response) => {
          transfer.check(response).resume();
          done();
        })
        .catch(done);
    },
    write: (chunk, _encoding, done) => {
      if (request.write(chunk)) done();
      else request.once("drain", done);
    },
  });
  mapErrors(sink, (error) => transfer.explain(error));
  answered.then(
    (response) => {
      if ((response.statusCode ?? 0) >= 400) sink.destroy(transfer.refusal(response));
    },
    (error: Error) => sink.destroy(error),
  );
  sink.once("close", () => {
    if (!sink.writableFinished) request.destroy();
    transfer.over();
  });
  return sink;
}

/** One transfer with its clock and its words for what goes wrong. */
class Transfer {
  readonly safeUrl: string;
  readonly #method: string;
  readonly #signal: AbortSignal;
  readonly #timeoutMs: number;
  readonly #stop = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly #onAbort = () => this.#stop.abort();
  #timedOut = false;

  constructor({ method, url }: PresignedRequest, signal: AbortSignal, timeoutMs: number) {
    this.safeUrl = safeUrl(url);
    this.#method = method;
    this.#signal = signal;
    this.#timeoutMs = timeoutMs;
    this.#timer = setTimeout(() => {
      this.#timedOut = true;
      this.#stop.abort();
    }, timeoutMs);
    if (signal.aborted) this.#stop.abort();
    signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  over(): void {
    clearTimeout(this.#timer);
    this.#signal.removeEventListener("abort", this.#onAbort);
  }

  request({ method, url, headers }: PresignedRequest): http.ClientRequest {
    const { secure, host, port, path, auth } = splitUrl(url, this.safeUrl);
    return (secure ? https : http).request({
      method,
      host,
      port,
      path,
      auth,
      headers: method === "GET" ? { "accept-encoding": "identity", ...headers } : headers,
      agent: false,
      signal: this.#stop.signal,
    });
  }

  fetchHead(request: PresignedRequest): Promise<http.IncomingMessage> {
    return new Promise((resolve, reject) => {
      const sent = this.request(request);
      sent.on("error", reject);
      sent.once("response", (response) => {
        // It may break while nobody reads it yet.
        response.on("error", () => {});
        resolve(response);
      });
      sent.end();
    });
  }

  /** @throws AgentError E_FAILED for a status of 400 and above. */
  check(response: http.IncomingMessage): http.IncomingMessage {
    if ((response.statusCode ?? 0) < 400) return response;
    response.destroy();
    throw this.refusal(response);
  }

  refusal({ statusCode, statusMessage }: http.IncomingMessage): AgentError {
    return new AgentError(
      "E_FAILED",
      `Presigned HTTP ${this.#method} request failed: status=${statusCode}, reason='${statusMessage}', url=${this.safeUrl}`,
    );
  }

  body(response: http.IncomingMessage): Readable {
    response.once("close", () => this.over());
    mapErrors(response, (error) => this.explain(error));
    const encoding = response.headers["content-encoding"]?.toLowerCase() ?? "identity";
    if (encoding === "identity") return response;
    // Not asked for, but some servers do it; the file is what was encoded.
    if (encoding !== "gzip" && encoding !== "x-gzip" && encoding !== "deflate") {
      response.destroy();
      throw new AgentError("E_FAILED", `${this.safeUrl} came with the unknown content-encoding ${encoding}`);
    }
    const plain = decoded(response, "gzip");
    return plain.once("close", () => response.destroy());
  }

  explain(thrown: unknown): AgentError {
    if (this.#timedOut) {
      const seconds = this.#timeoutMs / 1000;
      return new AgentError(
        "E_TIMEOUT",
        `Presigned HTTP ${this.#method} request timed out after ${seconds}s for ${this.safeUrl}`,
      );
    }
    if (thrown instanceof AgentError) return thrown;
    if (this.#signal.aborted) return toAgentError(this.#signal.reason);
    const name = thrown instanceof Error ? ((thrown as NodeJS.ErrnoException).code ?? thrown.name) : "Error";
    return new AgentError(
      "E_FAILED",
      `Presigned HTTP ${this.#method} stream failed (connection/read error) for ${this.safeUrl}: ${name}: ${toAgentError(thrown).message}`,
      { cause: thrown },
    );
  }
}

interface SplitUrl {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  /** With query, as given. */
  readonly path: string;
  readonly auth: string | undefined;
}

const urlParts = /^(https?):\/\/(?:([^/?#@]*)@)?(\[[^\]]*\]|[^/?#:]+)(?::(\d{1,5}))?([^#]*)/i;

function splitUrl(url: string, safe: string): SplitUrl {
  const [, scheme, auth, host, port, rest] = urlParts.exec(url) ?? [];
  if (scheme === undefined || host === undefined || rest === undefined) {
    throw new AgentError("E_INVALID", `not an HTTP URL: ${safe}`);
  }
  const secure = scheme.toLowerCase() === "https";
  const path = rest.startsWith("/") ? rest : `/${rest}`;
  return {
    secure,
    host: host.replace(/^\[|\]$/g, "").toLowerCase(),
    port: port === undefined ? (secure ? 443 : 80) : Number(port),
    // Only what cannot stand in a request line at all is encoded.
    path: path.replace(/[^\x21-\x7e]/gu, encodeURIComponent),
    auth: auth === undefined ? undefined : decodeURIComponent(auth),
  };
}

function origin(url: string): string {
  const { secure, host, port } = splitUrl(url, safeUrl(url));
  return `${secure ? "https" : "http"}://${host}:${port}`;
}

function redirected(from: PresignedRequest, location: string | undefined, safe: string): PresignedRequest {
  if (location === undefined) {
    throw new AgentError("E_FAILED", `Presigned HTTP GET redirect missing Location header for ${safe}`);
  }
  const url = resolve(from.url, location);
  if (origin(url) === origin(from.url)) return { ...from, url };
  const headers = Object.fromEntries(Object.entries(from.headers).filter(([name]) => !secretHeaders.test(name)));
  return { ...from, url, headers };
}

/** A Location against the URL it came from, without touching its characters. */
function resolve(base: string, location: string): string {
  if (/^[a-z][a-z0-9+.-]*:/i.test(location)) return location;
  const [, scheme = "", authority = "", path = ""] = /^([^:]+:)(\/\/[^/?#]*)([^?#]*)/.exec(base) ?? [];
  if (location.startsWith("//")) return scheme + location;
  if (location.startsWith("/")) return scheme + authority + location;
  if (location.startsWith("?")) return scheme + authority + path + location;
  return scheme + authority + path.slice(0, path.lastIndexOf("/") + 1).padStart(1, "/") + location;
}

/** For messages: the query holds the signature, the user part a password. */
function safeUrl(url: string): string {
  return url
    .replace(/#.*$/s, "")
    .replace(/\?.*$/s, "?[REDACTED]")
    .replace(/\/\/[^/?#]*@/, "//");
}
