import { createHmac, timingSafeEqual } from "node:crypto";

export interface Claims {
  iss: string;
  sub: string;
  aud: string[];
  /** Seconds since 1970. */
  exp: number;
  nbf?: number;
  iat?: number;
  jti?: string;
}

/** A JWT signed with HMAC-SHA256, as the controller signs its router tokens. */
export function signToken(claims: Claims, key: string): string {
  const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${body}.${signature(body, key).toString("base64url")}`;
}

/** The claims of a token that was signed with `key` and has not expired; undefined for any other text. */
export function verifyToken(token: string, key: string, nowSeconds: number): Claims | undefined {
  const [header, payload, signed, ...rest] = token.split(".");
  if (header === undefined || payload === undefined || signed === undefined || rest.length > 0) return undefined;
  const expected = signature(`${header}.${payload}`, key);
  const given = Buffer.from(signed, "base64url");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return undefined;
  const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Claims;
  if (claims.exp <= nowSeconds || (claims.nbf ?? 0) > nowSeconds) return undefined;
  return claims;
}

function encode(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}

function signature(body: string, key: string): Buffer {
  return createHmac("sha256", key).update(body).digest();
}
