/**
 * AWS Signature Version 4 for S3: "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API
 * reference. The tests sign its published examples.
 */
import { createHash, createHmac } from "node:crypto";

interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

export interface Signer {
  readonly region: string;
  readonly credentials: Credentials;
}

export interface ToSign {
  readonly method: string;
  /** As in the request's Host header. */
  readonly host: string;
  /** With a slash in front, each part percent-encoded once (S3 differs from other services there). */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  /** Lower-case names; all of them are signed. */
  readonly headers?: Readonly<Record<string, string>>;
}

export function sha256(data: string | Buffer): string {
  return createHash("sha256").update(data).digest("hex");
}

/** The headers to send: those given, and what proves who sends them. */
export function signHeaders(request: ToSign, payloadHash: string, signer: Signer, now: Date): Record<string, string> {
  const { credentials } = signer;
  const headers: Record<string, string> = {
    ...request.headers,
    host: request.host,
    "x-amz-content-sha256": payloadHash,
    "x-amz-date": timestamp(now),
  };
  if (credentials.sessionToken !== undefined) headers["x-amz-security-token"] = credentials.sessionToken;
  const { signedHeaders, signature } = sign({ ...request, headers }, payloadHash, signer, now);
  headers["authorization"] =
    `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope(signer, now)},` +
    `SignedHeaders=${signedHeaders},Signature=${signature}`;
  return headers;
}

/** The query of a URL that lets its holder send this request until it expires. */
export function presignQuery(request: ToSign, expireSeconds: number, signer: Signer, now: Date): string {
  const { credentials } = signer;
  const query: Record<string, string> = {
    ...request.query,
    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
    "X-Amz-Credential": `${credentials.accessKeyId}/${scope(signer, now)}`,
    "X-Amz-Date": timestamp(now),
    "X-Amz-Expires": String(Math.round(expireSeconds)),
    "X-Amz-SignedHeaders": "host",
  };
  if (credentials.sessionToken !== undefined) query["X-Amz-Security-Token"] = credentials.sessionToken;
  const { signature } = sign({ ...request, query, headers: { host: request.host } }, "UNSIGNED-PAYLOAD", signer, now);
  return `${canonicalQuery(query)}&X-Amz-Signature=${signature}`;
}

function sign(request: ToSign, payloadHash: string, signer: Signer, now: Date) {
  const names = Object.keys(request.headers ?? {}).sort();
  const signedHeaders = names.join(";");
  const canonicalRequest = [
    request.method,
    request.path,
    canonicalQuery(request.query ?? {}),
    ...names.map((name) => `${name}:${(request.headers?.[name] ?? "").trim().replace(/ +/g, " ")}`),
    "",
    signedHeaders,
    payloadHash,
  ].join("\n");
  const stringToSign = ["AWS4-HMAC-SHA256", timestamp(now), scope(signer, now), sha256(canonicalRequest)].join("\n");
  let key: string | Buffer = `AWS4${signer.credentials.secretAccessKey}`;
  for (const part of scope(signer, now).split("/")) key = createHmac("sha256", key).update(part).digest();
  return { signedHeaders, signature: createHmac("sha256", key).update(stringToSign).digest("hex") };
}

/** Sorted by name and encoded as the signature wants it; also what is sent. */
export function canonicalQuery(query: Readonly<Record<string, string>>): string {
  return Object.entries(query)
    .map(([name, value]) => `${uriEncode(name)}=${uriEncode(value)}`)
    .sort()
    .join("&");
}

/** Everything but unreserved characters (RFC 3986), which are fewer than `encodeURIComponent` thinks. */
export function uriEncode(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** `20130524T000000Z` */
function timestamp(now: Date): string {
  return now.toISOString().replace(/[-:]|\.\d{3}/g, "");
}

function scope({ region }: Signer, now: Date): string {
  return `${timestamp(now).slice(0, 8)}/${region}/s3/aws4_request`;
}
