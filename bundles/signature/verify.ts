import { AgentError } from "../../agent/driver/errors.ts";
import { signatureTagOf, verify, type Digest } from "../oci/digest.ts";
import type { RawManifest } from "../oci/image.ts";
import { readExactly } from "../oci/read-exactly.ts";
import type { Source } from "../oci/source.ts";
import { readSignatures, type SignatureLayer } from "./image.ts";
import { isSignedBy, type TrustedKey } from "./keys.ts";
import { readPayload, type SignedStatement } from "./payload.ts";

/** A signature that counts. */
export interface Signature {
  readonly key: TrustedKey;
  readonly statement: SignedStatement;
  /** The image that holds it. */
  readonly image: Digest;
}

export interface Trust {
  readonly keys: readonly TrustedKey[];
  /** Which `docker-reference` signatures must be made for. */
  acceptsRepository(repository: string): boolean;
}

/**
 * Finds a signature of an image, at the tag that cosign gives it, and checks it. Nobody else is asked.
 * @param name what errors call the image
 * @throws AgentError E_SIGNATURE if none counts, and why; E_CONNECTION, E_TIMEOUT, E_IO if the source cannot be read
 */
export async function verifySignature(
  source: Source,
  digest: Digest,
  trust: Trust,
  { name, signal }: { readonly name: string; readonly signal: AbortSignal },
): Promise<Signature> {
  const tag = signatureTagOf(digest);
  const image = await source.tagged(tag, signal);
  if (image === undefined) throw notSigned(name, `there is no ${tag} beside it`);
  const found = await orReason(async () => {
    const raw: RawManifest = await source.manifest(image, signal);
    verify(raw.bytes, image, "the image of its signatures");
    return readSignatures(raw, "the image of its signatures");
  });
  if (typeof found === "string") throw notSigned(name, found);
  const reasons = new Set<string>();
  for (const layer of found) {
    const checked = await orReason(() => checkSignature(source, layer, digest, trust, signal));
    if (typeof checked !== "string") return { ...checked, image };
    reasons.add(checked);
  }
  throw notSigned(name, reasons.size === 0 ? `${tag} holds no signature` : [...reasons].join("; "));
}

/** @throws AgentError E_INVALID, E_DIGEST if it does not count; any other error says nothing about it */
async function checkSignature(
  source: Source,
  { signature, ...expected }: SignatureLayer,
  digest: Digest,
  trust: Trust,
  signal: AbortSignal,
): Promise<Pick<Signature, "key" | "statement">> {
  const payload = await readExactly(source, expected, "a signed payload", signal);
  // First who says it, then what it says: nothing of a stranger's text is read.
  const key = trust.keys.find((trusted) => isSignedBy(trusted.key, payload, signature));
  if (key === undefined) throw new AgentError("E_INVALID", "a signature is not of a trusted key");
  const statement = readPayload(payload);
  if (statement.digest !== digest) {
    throw new AgentError("E_INVALID", `a signature of ${key.name} is for another image, ${statement.digest}`);
  }
  if (!trust.acceptsRepository(statement.repository)) {
    const repository = JSON.stringify(statement.repository.slice(0, 200));
    throw new AgentError("E_INVALID", `a signature of ${key.name} was made for the repository ${repository}`);
  }
  return { key, statement };
}

const verdicts: ReadonlySet<string> = new Set(["E_INVALID", "E_DIGEST", "E_LIMIT"]);

/** What a step gives, or why its content does not count. Trouble of other kinds is thrown on. */
async function orReason<T>(step: () => Promise<T>): Promise<T | string> {
  try {
    return await step();
  } catch (error) {
    if (error instanceof AgentError && verdicts.has(error.code)) return error.message;
    throw error;
  }
}

function notSigned(name: string, why: string): AgentError {
  return new AgentError("E_SIGNATURE", `${name} has no signature that counts: ${why}`, {
    hint: "sign it with 'jmp-agent bundle sign' or cosign, or list the signer's key under signature_keys",
  });
}
