import http from "node:http";
import https from "node:https";
import { AgentError, isSystemError } from "../../../agent/driver/errors.ts";

/** A server that says nothing for so long is taken for gone. */
const silenceMs = 60_000;

const mostRedirects = 10;
const redirects = new Set([301, 302, 303, 307, 308]);

/** What is sent again when a server points elsewhere, though not to another origin. */
const secretHeaders = /^(authorization|cookie|x-amz-)/i;

export interface HttpRequest {
  readonly method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  /** Percent-encoded already; sent as it is. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
}

/** Requests to one server over kept connections. */
export class HttpClient {
  /** `http://host` or `https://host:port`, as it goes into URLs. */
  readonly origin: string;
  readonly #agents: { "http:": http.Agent; "https:": https.Agent };

  /** @throws AgentError E_CONFIG for anything but an http(s) URL; a path behind the host is left out */
  constructor(endpoint: string) {
    this.origin = parseEndpoint(endpoint).origin;
    const options = { keepAlive: true, maxSockets: 16 };
    this.#agents = { "http:": new http.Agent(options), "https:": new https.Agent(options) };
  }

  /** Sends a request and follows redirects of GET and HEAD. The caller reads or destroys the response. */
  async send(request: HttpRequest, signal?: AbortSignal): Promise<http.IncomingMessage> {
    let origin = this.origin;
    let next = request;
    for (let hops = 0; hops <= mostRedirects; hops += 1) {
      const response = await this.#sendOnce(origin, next, signal);
      const location = response.headers.location;
      const follows = next.method === "GET" || next.method === "HEAD";
      if (!follows || !redirects.has(response.statusCode ?? 0) || location === undefined) return response;
      response.destroy();
      const target = new URL(location, origin + next.path);
      if (target.protocol !== "http:" && target.protocol !== "https:") break;
      if (target.origin !== origin) {
        const kept = Object.entries(next.headers ?? {}).filter(([name]) => !secretHeaders.test(name));
        next = { ...next, headers: Object.fromEntries(kept) };
      }
      origin = target.origin;
      next = { ...next, path: target.pathname + target.search };
    }
    throw new AgentError("E_FAILED", `${this.origin} redirects to nowhere`);
  }

  async #sendOnce(origin: string, request: HttpRequest, signal?: AbortSignal): Promise<http.IncomingMessage> {
    try {
      return await this.#exchange(origin, request, signal);
    } catch (error) {
      // The server closed a kept connection just when we used it again: it has not seen the request.
      if (!(error instanceof StaleConnection)) throw error;
      return this.#exchange(origin, request, signal);
    }
  }

  #exchange(origin: string, { method, path, headers, body }: HttpRequest, signal?: AbortSignal) {
    const { protocol, hostname, port } = new URL(origin);
    const isSecure = protocol === "https:";
    return new Promise<http.IncomingMessage>((resolve, reject) => {
      const request = (isSecure ? https : http).request({
        method,
        host: hostname.replace(/^\[|\]$/g, ""),
        port: port === "" ? (isSecure ? 443 : 80) : Number(port),
        path,
        headers: { ...headers, ...(body === undefined ? {} : { "content-length": String(body.length) }) },
        agent: this.#agents[isSecure ? "https:" : "http:"],
        timeout: silenceMs,
        ...(signal === undefined ? {} : { signal }),
      });
      request.once("timeout", () => request.destroy(new AgentError("E_TIMEOUT", `${origin} does not answer`)));
      request.on("error", (error) => {
        const isStale = request.reusedSocket && isSystemError(error) && error.code === "ECONNRESET";
        reject(isStale ? new StaleConnection("connection reset") : describe(error, origin));
      });
      request.once("response", resolve);
      request.end(body);
    });
  }

  close(): void {
    this.#agents["http:"].destroy();
    this.#agents["https:"].destroy();
  }
}

class StaleConnection extends Error {}

function describe(error: Error, origin: string): Error {
  if (error instanceof AgentError || error.name === "AbortError") return error;
  return new AgentError("E_CONNECTION", `${origin}: ${error.message || (error as NodeJS.ErrnoException).code}`, {
    cause: error,
  });
}

export function parseEndpoint(endpoint: string): URL {
  const url = URL.parse?.(endpoint) ?? (URL.canParse(endpoint) ? new URL(endpoint) : null);
  if (url !== null && (url.protocol === "http:" || url.protocol === "https:")) return url;
  throw new AgentError("E_CONFIG", "kwargs.endpoint must be an http:// or https:// URL");
}

/** All of a small answer. @throws AgentError E_LIMIT beyond `limitBytes` */
export async function readText(response: http.IncomingMessage, limitBytes = 8 * 1024 * 1024): Promise<string> {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length;
    if (sizeBytes > limitBytes) throw new AgentError("E_LIMIT", "the server's answer is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

/** The bytes from `start` of a file that has `sizeBytes`, whether the server knows ranges or not. */
export async function* bodyFrom(
  response: http.IncomingMessage,
  start: number,
  sizeBytes: number,
): AsyncGenerator<Buffer, void, undefined> {
  let skip = response.statusCode === 206 ? 0 : start;
  let left = sizeBytes - start;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    const wanted = chunk.subarray(skip, skip + left);
    skip = Math.max(0, skip - chunk.length);
    left -= wanted.length;
    if (wanted.length > 0) yield wanted;
    if (left === 0) return;
  }
  if (left > 0) throw new AgentError("E_FAILED", `the server's file ended ${left} bytes early`);
}
