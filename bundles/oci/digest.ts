import { createHash, type Hash } from "node:crypto";
import { Transform } from "node:stream";
import { AgentError } from "../../agent/driver/errors.ts";

/** `sha256:…` or `sha512:…`, lower case hex. */
export type Digest = `${"sha256" | "sha512"}:${string}`;

const digestPattern = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

export function isDigest(text: string): text is Digest {
  return digestPattern.test(text);
}

export function algorithmOf(digest: Digest): "sha256" | "sha512" {
  return digest.slice(0, 6) as "sha256" | "sha512";
}

export function digestOf(bytes: Uint8Array, algorithm: "sha256" | "sha512" = "sha256"): Digest {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;
}

/** What content must be; the common part of every OCI descriptor. */
export interface Expected {
  readonly digest: Digest;
  readonly size: number;
}

/**
 * Passes bytes on and fails if they are not exactly those that were promised. Bytes beyond the size are never passed on.
 * @param name what the error calls the content
 * @param before what has come already
 */
export function verifying(expected: Expected, name: string, before?: { hash: Hash; bytes: number }): Transform {
  const hash = before?.hash ?? createHash(algorithmOf(expected.digest));
  let size = before?.bytes ?? 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      size += chunk.length;
      if (size > expected.size) {
        done(new AgentError("E_DIGEST", `${name} is longer than the ${expected.size} bytes it should have`));
        return;
      }
      hash.update(chunk);
      done(null, chunk);
    },
    flush(done) {
      if (size < expected.size) {
        done(new AgentError("E_DIGEST", `${name} ends after ${size} of ${expected.size} bytes`));
        return;
      }
      const got = `${algorithmOf(expected.digest)}:${hash.digest("hex")}`;
      done(got === expected.digest ? null : mismatch(name, expected.digest, got));
    },
  });
}

/** @throws AgentError E_DIGEST unless the bytes are exactly those promised. */
export function verify(bytes: Uint8Array, expected: Digest, name: string): void {
  const got = digestOf(bytes, algorithmOf(expected));
  if (got !== expected) throw mismatch(name, expected, got);
}

function mismatch(name: string, expected: string, got: string): AgentError {
  return new AgentError("E_DIGEST", `${name} is not what its digest says: expected ${expected}, got ${got}`);
}

/** Where cosign keeps the signature of an image: a tag beside it, made of its digest. */
export function signatureTagOf(digest: Digest): string {
  return `${digest.replace(":", "-")}.sig`;
}

export function isSignatureTag(tag: string): boolean {
  return tag.endsWith(".sig") && isDigest(tag.slice(0, -".sig".length).replace("-", ":"));
}
