import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Credential } from "../../agent/stream/registry-credentials.ts";
import { readBody, resolveUrl, type Http, type HttpAnswer } from "./http.ts";

/** How requests to one repository are signed, as its registry asks for it. */
export interface Authorization {
  /** What to send now; undefined as long as nothing was asked for. Renews a token that is about to expire. */
  current(signal: AbortSignal): Promise<string | undefined>;
  /**
   * Answers a refusal.
   * @param challenges the WWW-Authenticate headers
   * @param sent what the refused request was sent with
   * @returns what to send instead; undefined if there is nothing better
   */
  renew(challenges: readonly string[], sent: string | undefined, signal: AbortSignal): Promise<string | undefined>;
}

export interface AuthorizationOptions {
  readonly http: Http;
  /** What the realm of a challenge is relative to. */
  readonly root: URL;
  readonly credential: Credential | undefined;
  /** What is asked for if the registry does not say, e.g. `repository:ns/repo:pull`. */
  readonly scope: string;
  readonly refusal: (answer: HttpAnswer, what: string, signal: AbortSignal) => Promise<AgentError>;
}

interface Challenge {
  readonly realm: string;
  readonly service: string | undefined;
  /** Resources with actions, separated by spaces. */
  readonly scope: string | undefined;
}

interface Token {
  readonly header: string;
  /** On the clock of `performance.now()`, which nobody sets. */
  readonly expiresMs: number;
}

const tokenAnswer = z.object({
  token: z.string().optional(),
  access_token: z.string().optional(),
  expires_in: z.number().positive().optional(),
});
const largestAnswerBytes = 64 * 1024;
/** The token specification's default. */
const defaultLifeSeconds = 60;
/** A token with less than this left is renewed before it is used: the request has to get there. */
const leastLifeMs = 5_000;
const clientId = "jumpstarter-agent";

/**
 * Basic logins, and the bearer tokens of the distribution project's token specification: fetched with the login, or with the
 * identity token that `docker login` was given (OAuth2), and renewed in time.
 */
export function createAuthorization(options: AuthorizationOptions): Authorization {
  const { http, root, credential, scope, refusal } = options;
  const login =
    credential !== undefined && "username" in credential
      ? `Basic ${Buffer.from(`${credential.username}:${credential.password}`).toString("base64")}`
      : undefined;
  /** The last challenge that was answered, and its answer. */
  let answered: { challenge: Challenge; token: Token } | undefined;
  let usesLogin = false;
  /** By scope: many blobs at once need one token. */
  const underWay = new Map<string | undefined, Promise<Token | undefined>>();

  const fetchToken = async (challenge: Challenge, signal: AbortSignal): Promise<Token | undefined> => {
    const url = resolveUrl(challenge.realm, root);
    const scopes = (challenge.scope ?? scope).split(" ").filter((one) => one !== "");
    const { service } = challenge;
    let answer: HttpAnswer;
    if (credential !== undefined && "identityToken" in credential) {
      const form = new URLSearchParams({ grant_type: "refresh_token", client_id: clientId });
      form.set("refresh_token", credential.identityToken);
      form.set("scope", scopes.join(" "));
      if (service !== undefined) form.set("service", service);
      const headers = { "content-type": "application/x-www-form-urlencoded" };
      answer = await http.send({ method: "POST", url, headers, body: Buffer.from(form.toString()), signal });
    } else {
      if (service !== undefined) url.searchParams.set("service", service);
      for (const one of scopes) url.searchParams.append("scope", one);
      answer = await http.send({ method: "GET", url, authorization: login, signal });
    }
    if (answer.status !== 200) throw await refusal(answer, `a token from ${url.host}`, signal);
    const body = await readBody(answer, largestAnswerBytes, url, signal);
    const { token, access_token, expires_in = defaultLifeSeconds } = readToken(body, url);
    const bearer = token ?? access_token;
    if (bearer === undefined) return undefined;
    return { header: `Bearer ${bearer}`, expiresMs: performance.now() + expires_in * 1000 };
  };

  const fetchOnce = async (challenge: Challenge, signal: AbortSignal): Promise<string | undefined> => {
    const fetching = underWay.get(challenge.scope) ?? fetchToken(challenge, signal);
    underWay.set(challenge.scope, fetching);
    const token = await fetching.finally(() => underWay.delete(challenge.scope));
    if (token !== undefined) answered = { challenge, token };
    return token?.header;
  };

  return {
    current: async (signal) => {
      if (usesLogin) return login;
      if (answered === undefined) return undefined;
      const { challenge, token } = answered;
      if (token.expiresMs - performance.now() >= leastLifeMs) return token.header;
      return await fetchOnce(challenge, signal);
    },
    renew: async (challenges, sent, signal) => {
      const challenge = challenges.map(readBearer).find((one) => one !== undefined);
      if (challenge === undefined) {
        usesLogin = challenges.some((one) => /\bbasic\b/i.test(one)) && login !== undefined && sent !== login;
        return usesLogin ? login : undefined;
      }
      // Another request may have been told the same, and have a new token already.
      const { token } = answered ?? {};
      const isNew = token !== undefined && token.header !== sent && answered?.challenge.scope === challenge.scope;
      return isNew ? token.header : await fetchOnce(challenge, signal);
    },
  };
}

function readToken(body: Buffer, url: URL): z.output<typeof tokenAnswer> {
  try {
    return tokenAnswer.parse(JSON.parse(body.toString("utf8")));
  } catch {
    // Its content may be a secret: the parser's complaint about it is not told.
    throw new AgentError("E_INVALID", `${url.host} answered with something else than a token`);
  }
}

/** Reads `Bearer realm="…",service="…",scope="…"`, which may stand behind another challenge. */
function readBearer(header: string): Challenge | undefined {
  const [, parameters] = /\bbearer\s+(.*)/is.exec(header) ?? [];
  if (parameters === undefined) return undefined;
  const fields = new Map<string, string>();
  for (const [, key = "", quoted, bare = ""] of parameters.matchAll(/([A-Za-z_]+)=(?:"([^"]*)"|([^\s,]+))/g)) {
    if (!fields.has(key.toLowerCase())) fields.set(key.toLowerCase(), quoted ?? bare);
  }
  const realm = fields.get("realm");
  if (realm === undefined || realm === "") return undefined;
  return { realm, service: fields.get("service") || undefined, scope: fields.get("scope") || undefined };
}
