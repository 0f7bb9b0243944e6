/** What HTTP says about redirects (as Python's `requests` follows them), and where a reading is in an answer. */

export interface Outgoing {
  readonly method: string;
  /** Without user, password and fragment. */
  readonly url: URL;
  readonly body: string | undefined;
}

const bodyMethods = new Set(["POST", "PUT", "PATCH"]);

/** An endpoint's request. `data` is a body only for methods that have one. */
export function outgoing(url: URL, method: string, data: string | null | undefined): Outgoing {
  return { method, url, body: bodyMethods.has(method) ? (data ?? undefined) : undefined };
}

/** User and password out of a URL, for Basic authentication. @returns undefined without them */
export function credentialsOf(url: URL): { user: string; password: string } | undefined {
  if (url.username === "" && url.password === "") return undefined;
  return { user: decodeText(url.username), password: decodeText(url.password) };
}

function decodeText(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The URL that goes on the wire. */
export function withoutCredentials(url: URL): URL {
  const bare = new URL(url.href);
  bare.username = "";
  bare.password = "";
  bare.hash = "";
  return bare;
}

/** For errors and logs: passwords and tokens may be in the query, too. */
export function safeUrl(url: URL): string {
  return `${url.origin}${url.pathname}${url.search === "" ? "" : "?…"}`;
}

/**
 * Where a redirect leads.
 * @returns undefined if the answer is none; "nowhere" if it leads to something that is not HTTP
 */
export function redirected(
  from: Outgoing,
  status: number,
  location: string | undefined,
): Outgoing | "nowhere" | undefined {
  if (![301, 302, 303, 307, 308].includes(status) || location === undefined) return undefined;
  if (!URL.canParse(location, from.url.href)) return "nowhere";
  const target = new URL(location, from.url.href);
  if (target.protocol !== "http:" && target.protocol !== "https:") return "nowhere";
  const url = withoutCredentials(target);
  if (status === 307 || status === 308) return { ...from, url };
  const becomesGet = from.method !== "HEAD" && (status !== 301 || from.method === "POST");
  return { url, method: becomesGet ? "GET" : from.method, body: undefined };
}

/** Secrets stay with the origin that they were made for; to TLS on the same host is no other place. */
export function isSamePlace(one: URL, other: URL): boolean {
  if (one.origin === other.origin) return true;
  const upgraded = one.protocol === "http:" && other.protocol === "https:" && one.port === "" && other.port === "";
  return upgraded && one.hostname === other.hostname;
}

/** What is at a dotted path; numbers are indexes into lists. @returns undefined if nothing is there */
export function valueAt(document: unknown, path: string): unknown {
  let found = document;
  for (const key of path.split(".")) {
    if (Array.isArray(found)) found = /^\d+$/.test(key) ? (found as unknown[])[Number(key)] : undefined;
    else if (typeof found === "object" && found !== null && Object.hasOwn(found, key)) {
      found = (found as Record<string, unknown>)[key];
    } else return undefined;
  }
  return found;
}

/** A JSON number, or its text. @returns undefined for anything else */
export function toNumber(value: unknown): number | undefined {
  if (typeof value !== "number" && typeof value !== "string") return undefined;
  const number = typeof value === "string" && value.trim() === "" ? NaN : Number(value);
  return Number.isFinite(number) ? number : undefined;
}
