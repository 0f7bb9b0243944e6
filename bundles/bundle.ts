import { realpath, stat } from "node:fs/promises";
import { join, sep } from "node:path";
import { AgentError, isSystemError } from "../agent/driver/errors.ts";
import type { BundleCache } from "./cache/cache.ts";
import { signatureTagOf, type Digest } from "./oci/digest.ts";
import { layoutSource } from "./oci/layout.ts";
import { formatReference, type Reference } from "./oci/reference.ts";
import type { Source } from "./oci/source.ts";
import { openRepository, type RegistryAccess } from "./registry-settings.ts";
import type { SignaturePolicy } from "./signature/policy.ts";
import type { Signature } from "./signature/verify.ts";

/** The files of a flasher bundle, on this host's disk. */
export interface Bundle {
  /** Complete reference it was opened by. */
  readonly reference: string;
  /** Undefined for a plain directory. */
  readonly digest: Digest | undefined;
  readonly directory: string;
  /** Fingerprint of the key whose signature was found good. */
  readonly signedBy: string | undefined;
  /** It is not used any more, and may leave the cache. */
  release(): void;
}

export interface BundleAccess extends RegistryAccess {
  /** Asked only for what is not a plain directory. */
  readonly cache: () => Promise<BundleCache>;
  /** Undefined: signatures are of no interest. */
  readonly signatures?: SignaturePolicy | undefined;
}

/** Makes the files of a bundle available. @throws AgentError as {@link BundleCache.get}, E_SIGNATURE */
export async function openBundle(reference: Reference, access: BundleAccess): Promise<Bundle> {
  const name = formatReference(reference);
  const { signatures } = access;
  if (reference.kind === "file") {
    if (signatures?.required) throw new AgentError("E_SIGNATURE", `${name} is a directory, which has no signature`);
    const { directory } = reference;
    return { reference: name, digest: undefined, directory, signedBy: undefined, release: () => {} };
  }
  const { digest } = reference;
  const open = async () =>
    reference.kind === "oci-layout" ? layoutSource(reference) : await openRepository(reference, access);
  const cache = await access.cache();
  let signature: Signature | undefined;
  const signed = signatures && {
    accept: async (source: Source, found: Digest, signal: AbortSignal) => {
      signature = await signatures.check(source, found, name, signal);
    },
    // Then its signature is good offline, too.
    alsoKeep: async (_source: Source, found: Digest) =>
      signature === undefined ? [] : [{ tag: signatureTagOf(found), digest: signature.image }],
  };
  const bundle = await cache.get({ name, digest, open, ...signed });
  // Whatever way it came: what has to be signed is not used unless its own signature was seen.
  if (signatures?.required && signature?.statement.digest !== bundle.digest) {
    bundle.release();
    throw new AgentError("E_SIGNATURE", `the signature of ${name} was not checked`);
  }
  return { ...bundle, reference: name, signedBy: signature?.key.fingerprint };
}

/**
 * Absolute path of a file of a bundle. Links may be followed, but not out of the bundle.
 * @param path a confined path, as the manifest's are
 * @throws AgentError E_INVALID if there is no such file
 */
export async function fileOf(bundle: Pick<Bundle, "reference" | "directory">, path: string): Promise<string> {
  try {
    const [root, file] = await Promise.all([realpath(bundle.directory), realpath(join(bundle.directory, path))]);
    if (file.startsWith(root + sep) && (await stat(file)).isFile()) return file;
  } catch (error) {
    if (!isSystemError(error) || !["ENOENT", "ENOTDIR", "ELOOP"].includes(error.code)) throw error;
  }
  throw new AgentError("E_INVALID", `the bundle ${bundle.reference} has no file ${path}`);
}
