import { rootCertificates } from "node:tls";
import type { Readable } from "node:stream";
import { Agent, EnvHttpProxyAgent, request } from "undici";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";

export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Readable;
}

export interface HttpRequest {
  readonly method: "GET" | "HEAD" | "POST" | "PUT";
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly authorization?: string | undefined;
  /** Like `authorization`, not sent to another host that a redirect leads to. */
  readonly privateHeaders?: Readonly<Record<string, string>> | undefined;
  readonly body?: Uint8Array | Readable;
  readonly signal: AbortSignal;
}

export interface HttpOptions {
  /** Registries that are spoken to without TLS, as `host:port` or, whatever the port, `host`; or every host. */
  readonly plainHttp: readonly string[] | "any";
  /** PEM text of certificate authorities to trust beside the usual ones. */
  readonly ca?: string | undefined;
  /** Longest silence before and within an answer. */
  readonly silenceMs?: number;
}

/** Speaks HTTP to registries: TLS checked, proxies of the environment used, redirects followed without credentials. */
export interface Http {
  send(request: HttpRequest): Promise<HttpAnswer>;
  close(): Promise<void>;
}

const connectTimeoutMs = 10_000;
const defaultSilenceMs = 30_000;
const mostRedirects = 5;
const redirects = new Set([301, 302, 303, 307, 308]);
const proxyVariables = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"];

export function createHttp(options: HttpOptions): Http {
  const tls = options.ca === undefined ? {} : { ca: [...rootCertificates, options.ca] };
  const { silenceMs = defaultSilenceMs } = options;
  const settings = {
    connect: { timeout: connectTimeoutMs, ...tls },
    headersTimeout: silenceMs,
    bodyTimeout: silenceMs,
  };
  const behindProxy = proxyVariables.some((name) => process.env[name]);
  const dispatcher = behindProxy ? new EnvHttpProxyAgent({ ...settings, requestTls: tls }) : new Agent(settings);

  const once = async (sent: HttpRequest): Promise<HttpAnswer> => {
    const { method, url, headers, privateHeaders, authorization, body, signal } = sent;
    checkScheme(url, options);
    try {
      const answer = await request(url, {
        method,
        dispatcher,
        signal,
        headers: { ...headers, ...privateHeaders, ...(authorization === undefined ? {} : { authorization }) },
        ...(body === undefined ? {} : { body }),
      });
      return { status: answer.statusCode, headers: answer.headers, body: answer.body };
    } catch (error) {
      throw connectionError(error, url, signal);
    }
  };

  return {
    send: async (first) => {
      let current = first;
      for (let hops = 0; ; hops += 1) {
        const answer = await once(current);
        const location = headerOf(answer, "location");
        const mayFollow = first.method === "GET" || first.method === "HEAD";
        if (!mayFollow || !redirects.has(answer.status) || location === undefined) return answer;
        discard(answer);
        if (hops === mostRedirects) throw new AgentError("E_INVALID", `${first.url.host} redirects too often`);
        const url = resolveUrl(location, current.url);
        // What is secret to one host is not sent to another.
        const isSameHost = url.origin === current.url.origin;
        const { authorization, privateHeaders } = isSameHost ? current : {};
        current = { ...current, url, authorization, privateHeaders };
      }
    },
    close: () => dispatcher.destroy(),
  };
}

/** @throws AgentError E_INVALID if the URL is malformed */
export function resolveUrl(location: string, base: URL): URL {
  try {
    return new URL(location, base);
  } catch {
    throw new AgentError("E_INVALID", `${base.host} answered with a malformed address`);
  }
}

/** First value of a header. */
export function headerOf(answer: HttpAnswer, name: string): string | undefined {
  const value = answer.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** All values of a header. */
export function headersOf(answer: HttpAnswer, name: string): string[] {
  const value = answer.headers[name] ?? [];
  return Array.isArray(value) ? value : [value];
}

/** Throws a body away that nobody reads. */
export function discard(answer: HttpAnswer): void {
  answer.body.on("error", () => {}).destroy();
}

/** Reads a whole body. @throws AgentError E_LIMIT if it has more than `mostBytes` */
export async function readBody(answer: HttpAnswer, mostBytes: number, url: URL, signal: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of answer.body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > mostBytes) throw new AgentError("E_LIMIT", `${url.host} answered with more than ${mostBytes} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    throw connectionError(error, url, signal);
  } finally {
    discard(answer);
  }
  return Buffer.concat(chunks);
}

/** @param host `host[:port]` */
export function isPlainHttp(host: string, { plainHttp }: HttpOptions): boolean {
  return plainHttp === "any" || plainHttp.includes(host) || plainHttp.includes(host.replace(/:\d+$/, ""));
}

function checkScheme(url: URL, options: HttpOptions): void {
  if (url.protocol === "https:") return;
  if (url.protocol === "http:" && isPlainHttp(url.host, options)) return;
  throw new AgentError("E_INVALID", `${url.host} may not be spoken to without TLS`, { hint: plainHttpHint(url.host) });
}

/** @param host `host[:port]` */
const plainHttpHint = (host: string) =>
  `plain_http: ["${host}"] in a flasher's config allows it, on the command line --plain-http ${host}`;

/** Names the peer, not the address: queries of redirected addresses hold signatures. */
export function connectionError(error: unknown, url: URL, signal: AbortSignal): unknown {
  if (error instanceof AgentError) return error;
  if (signal.aborted) return signal.reason;
  const { code = "", name = "" } = error as { code?: string; name?: string };
  if (name === "TimeoutError" || code === "ETIMEDOUT" || /^UND_ERR_.*TIMEOUT$/.test(code)) {
    return new AgentError("E_TIMEOUT", `${url.host} does not answer in time`, { cause: error });
  }
  if (code === "ERR_SSL_WRONG_VERSION_NUMBER") {
    const text = `${url.host} does not speak TLS`;
    return new AgentError("E_CONNECTION", text, { cause: error, hint: plainHttpHint(url.host) });
  }
  if (/CERT|SIGNATURE|SELF_SIGNED|^ERR_TLS|^ERR_SSL/.test(code)) {
    return new AgentError("E_CONNECTION", `${url.host} cannot be trusted: ${code}`, {
      cause: error,
      hint: "name its certificate authority: registry_ca in a flasher's config, --registry-ca on the command line, or NODE_EXTRA_CA_CERTS",
    });
  }
  if (isSystemError(error) || code !== "") {
    return new AgentError("E_CONNECTION", `${url.host} cannot be reached: ${code}`, { cause: error });
  }
  return error;
}
