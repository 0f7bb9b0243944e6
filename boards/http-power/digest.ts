import { createHash } from "node:crypto";

/** Digest authentication (RFC 7616; RFC 2617 without qop). */

interface Challenge {
  readonly realm: string;
  readonly nonce: string;
  readonly opaque: string | undefined;
  readonly algorithm: "MD5" | "SHA-256";
  readonly isSession: boolean;
  readonly hasQop: boolean;
}

const hashes = { MD5: "md5", "SHA-256": "sha256" } as const;

/**
 * The strongest Digest challenge of `WWW-Authenticate` headers that we can answer.
 * @returns undefined if there is none
 */
export function parseChallenge(headers: readonly string[]): Challenge | undefined {
  const found = headers.flatMap(challenges).map(understand);
  return found.find((each) => each?.algorithm === "SHA-256") ?? found.find((each) => each !== undefined);
}

/** Digest challenges of one header, which may hold several of several schemes. */
function challenges(header: string): Map<string, string>[] {
  const found: Map<string, string>[] = [];
  const token =
    /\s*,?\s*(?:([A-Za-z0-9-]+)\s+(?=[A-Za-z0-9-]+\s*=)|([A-Za-z0-9-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))/y;
  let current: Map<string, string> | undefined;
  for (let match = token.exec(header); match !== null; match = token.exec(header)) {
    const [, scheme, name, quoted, plain] = match;
    if (scheme !== undefined) {
      current = scheme.toLowerCase() === "digest" ? new Map() : undefined;
      if (current !== undefined) found.push(current);
    } else if (name !== undefined) {
      current?.set(name.toLowerCase(), quoted?.replace(/\\(.)/g, "$1") ?? plain ?? "");
    }
  }
  return found;
}

function understand(given: Map<string, string>): Challenge | undefined {
  const [realm, nonce] = [given.get("realm"), given.get("nonce")];
  const match = /^(MD5|SHA-256)(-sess)?$/i.exec(given.get("algorithm") ?? "MD5");
  const qops = given.get("qop")?.split(",");
  if (realm === undefined || nonce === undefined || match === null) return undefined;
  if (qops !== undefined && !qops.some((qop) => qop.trim().toLowerCase() === "auth")) return undefined;
  return {
    ...{ realm, nonce, opaque: given.get("opaque"), hasQop: qops !== undefined },
    algorithm: (match[1] as string).toUpperCase() as Challenge["algorithm"],
    isSession: match[2] !== undefined,
  };
}

export interface Asked {
  readonly method: string;
  /** Path and query as they are on the wire. */
  readonly uri: string;
  readonly user: string;
  readonly password: string;
  /** Random text of the client. */
  readonly cnonce: string;
}

/** Value of the `Authorization` header for the first request with a challenge's nonce. */
export function authorization(challenge: Challenge, { method, uri, user, password, cnonce }: Asked): string {
  const { realm, nonce, opaque, algorithm, isSession, hasQop } = challenge;
  const hash = (...parts: readonly string[]) => createHash(hashes[algorithm]).update(parts.join(":")).digest("hex");
  const count = "00000001";
  const secret = hash(user, realm, password);
  const session = isSession ? hash(secret, nonce, cnonce) : secret;
  const target = hash(method, uri);
  const response = hasQop ? hash(session, nonce, count, cnonce, "auth", target) : hash(session, nonce, target);
  const quote = (text: string) => `"${text.replace(/[\\"]/g, "\\$&")}"`;
  const fields = [
    ...[`username=${quote(user)}`, `realm=${quote(realm)}`, `nonce=${quote(nonce)}`, `uri=${quote(uri)}`],
    ...[`response=${quote(response)}`, `algorithm=${algorithm}${isSession ? "-sess" : ""}`],
    ...(opaque === undefined ? [] : [`opaque=${quote(opaque)}`]),
    ...(hasQop ? ["qop=auth", `nc=${count}`, `cnonce=${quote(cnonce)}`] : isSession ? [`cnonce=${quote(cnonce)}`] : []),
  ];
  return `Digest ${fields.join(", ")}`;
}
