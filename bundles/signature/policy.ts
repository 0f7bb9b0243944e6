import { readFile, stat } from "node:fs/promises";
import * as z from "zod";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { Digest } from "../oci/digest.ts";
import type { Source } from "../oci/source.ts";
import { largestKeyBytes, readPublicKey, type TrustedKey } from "./keys.ts";
import { verifySignature, type Signature } from "./verify.ts";

/** What a flasher's config says of signatures; spread into its schema. */
export const signatureSettings = {
  signature_keys: z
    .array(z.string())
    .default([])
    .describe("PEM files with public keys (ECDSA P-256 or P-384, Ed25519); bundles must be signed with one of them"),
  require_signature: z
    .boolean()
    .nullish()
    .describe("whether bundles without a good signature are refused, or only warned of; default: with signature_keys"),
  signature_repositories: z
    .array(z.string().regex(/^[^*]+(\/\*)?$/, "must be host/namespace/repository, or end with /*"))
    .nullish()
    .describe("repositories that signatures must be made for; a /* at the end stands for all below. Default: any"),
};

export type SignatureSettings = z.output<z.ZodObject<typeof signatureSettings>>;

/** Looks at the signatures of the bundles that an exporter uses. */
export interface SignaturePolicy {
  /** Whether a bundle without a good signature is refused. */
  readonly required: boolean;
  /**
   * A good signature of an image; undefined if there is none and none is required, which is told in the log.
   * @throws AgentError E_SIGNATURE, E_CONNECTION, E_TIMEOUT, E_IO; E_CONFIG if a key cannot be read
   */
  check(source: Source, digest: Digest, name: string, signal: AbortSignal): Promise<Signature | undefined>;
}

/** @returns undefined where the config says nothing of signatures */
export function signaturePolicy(settings: SignatureSettings, log: Logger): SignaturePolicy | undefined {
  const { signature_keys: files, signature_repositories: repositories } = settings;
  const required = settings.require_signature ?? files.length > 0;
  if (files.length === 0 && !required) return undefined;
  const acceptsRepository = (repository: string) =>
    repositories?.some((pattern) =>
      pattern.endsWith("/*") ? repository.startsWith(pattern.slice(0, -1)) : repository === pattern,
    ) ?? true;
  return {
    required,
    check: async (source, digest, name, signal) => {
      // Each time anew, so that a key that was withdrawn is trusted no longer.
      const keys = await Promise.all(files.map(readTrustedKey));
      try {
        const signature = await verifySignature(source, digest, { keys, acceptsRepository }, { name, signal });
        log.info(`${name} (${digest}) is signed by ${signature.key.name} (${signature.key.fingerprint})`);
        return signature;
      } catch (error) {
        if (required || !(error instanceof AgentError) || error.code !== "E_SIGNATURE") throw error;
        log.warn(`${error.message}; it is used all the same, as require_signature is false`);
        return undefined;
      }
    },
  };
}

async function readTrustedKey(path: string): Promise<TrustedKey> {
  try {
    const { size } = await stat(path);
    if (size > largestKeyBytes) throw new AgentError("E_INVALID", `${path} has ${size} bytes, too many for a key`);
    return readPublicKey(await readFile(path, "utf8"), path);
  } catch (error) {
    throw new AgentError("E_CONFIG", `signature_keys: ${(error as Error).message}`, { cause: error });
  }
}
