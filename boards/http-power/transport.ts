import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import { EnvHttpProxyAgent, request, type Dispatcher } from "undici";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { trustedCertificates } from "../../agent/sys/trusted-certificates.ts";
import { authorization, parseChallenge } from "./digest.ts";
import { isSamePlace, redirected, safeUrl, type Outgoing } from "./protocol.ts";

/** As many as Python's `requests` follows. */
const mostRedirects = 30;
/** What a relay answers has a few KiB. */
const mostAnswerBytes = 1024 * 1024;

export type Auth =
  | { readonly scheme: "basic" | "digest"; readonly user: string; readonly password: string }
  | { readonly scheme: "bearer"; readonly token: string };

export interface Exchange {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly auth: Auth | undefined;
  /** Beside those that every request has. */
  readonly headers: Readonly<Record<string, string>>;
  /** File with further certificate authorities, PEM. */
  readonly ca: string | undefined;
}

/**
 * Sends a request, follows redirects and answers a Digest challenge. Errors name no user, password, query or header.
 * @returns the body of the answer
 * @throws AgentError E_IO (status of 400 or more, no connection), E_TIMEOUT, E_LIMIT; the signal's reason
 */
export async function exchange(first: Outgoing, { timeoutMs, signal, ...options }: Exchange): Promise<string> {
  const limit = AbortSignal.timeout(timeoutMs);
  const ended = anySignal([signal, limit]);
  let dispatcher: Dispatcher | undefined;
  try {
    dispatcher = dispatcherFor(first.url, options.ca);
    return await follow(first, dispatcher, ended, options);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (limit.aborted) {
      throw new AgentError("E_TIMEOUT", `${safeUrl(first.url)} did not answer within ${timeoutMs / 1000} s`);
    }
    throw explain(error, first.url);
  } finally {
    await dispatcher?.destroy();
  }
}

/** Proxies of the environment are used, as in Python; plain HTTP goes to them as it is. */
function dispatcherFor(url: URL, ca: string | undefined): Dispatcher {
  const trusted = url.protocol === "https:" || ca !== undefined ? { ca: trustedCertificates(ca) } : {};
  return new EnvHttpProxyAgent({ connect: trusted, requestTls: trusted, proxyTunnel: false });
}

async function follow(
  first: Outgoing,
  dispatcher: Dispatcher,
  signal: AbortSignal,
  { auth, headers }: Pick<Exchange, "auth" | "headers">,
): Promise<string> {
  let next = first;
  let proof = auth && auth.scheme !== "digest" ? staticProof(auth) : undefined;
  let challenged = false;
  for (let hops = 0; hops <= mostRedirects;) {
    const isHome = isSamePlace(first.url, next.url);
    const answer = await request(next.url, {
      ...{ method: next.method, dispatcher, signal },
      // Its web server has few connections, and they should not outlive their use.
      reset: true,
      headers: {
        Accept: "*/*",
        "User-Agent": "jumpstarter-agent",
        ...(isHome ? headers : {}),
        ...(isHome && proof !== undefined ? { Authorization: proof } : {}),
      },
      body: next.body ?? null,
    });
    const header = (name: string) => [answer.headers[name] ?? []].flat();
    const challenge = answer.statusCode === 401 ? parseChallenge(header("www-authenticate")) : undefined;
    if (auth?.scheme === "digest" && challenge !== undefined && isHome && !challenged) {
      challenged = true;
      discard(answer.body);
      const asked = {
        method: next.method,
        uri: next.url.pathname + next.url.search,
        cnonce: randomBytes(8).toString("hex"),
      };
      proof = authorization(challenge, { ...asked, user: auth.user, password: auth.password });
      continue;
    }
    const target = redirected(next, answer.statusCode, header("location")[0]);
    if (target === undefined) return await readAnswer(next, answer);
    discard(answer.body);
    if (target === "nowhere") throw new AgentError("E_IO", `${safeUrl(next.url)} leads to something that is not HTTP`);
    // A digest is made for one path; the next one is asked for by a challenge of its own.
    if (auth?.scheme === "digest") [proof, challenged] = [undefined, false];
    next = target;
    hops += 1;
  }
  throw new AgentError("E_IO", `Exceeded ${mostRedirects} redirects.`);
}

function staticProof(auth: Exclude<Auth, { scheme: "digest" }>): string;
function staticProof(auth: Auth): string {
  if (auth.scheme === "bearer") return `Bearer ${auth.token}`;
  return `Basic ${Buffer.from(`${auth.user}:${auth.password}`).toString("base64")}`;
}

async function readAnswer(
  { url }: Outgoing,
  { statusCode, statusText, body }: Dispatcher.ResponseData,
): Promise<string> {
  if (statusCode >= 400) {
    discard(body);
    const whose = statusCode < 500 ? "Client" : "Server";
    const reason = statusText === "" ? "" : ` ${statusText}`;
    throw new AgentError("E_IO", `${statusCode} ${whose} Error:${reason} for url: ${safeUrl(url)}`);
  }
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > mostAnswerBytes) throw new AgentError("E_LIMIT", `${safeUrl(url)} answers with more than 1 MiB`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** Its connection ends with it. */
function discard(body: Readable): void {
  body.on("error", () => {}).destroy();
}

function explain(error: unknown, url: URL): unknown {
  if (error instanceof AgentError) return error;
  const inner = error instanceof AggregateError ? (error.errors.at(-1) as unknown) : error;
  const { code = "", message = "" } = inner as { code?: string; message?: string };
  if (/^UND_ERR_.*TIMEOUT$/.test(code) || code === "ETIMEDOUT") {
    return new AgentError("E_TIMEOUT", `${safeUrl(url)} did not answer in time`, { cause: error });
  }
  const text = isSystemError(inner) ? toAgentError(inner).message : message;
  return new AgentError("E_IO", `${safeUrl(url)} cannot be reached: ${text}`, { cause: error });
}
