import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
  verify,
  type KeyObject,
} from "node:crypto";
import { AgentError } from "../../agent/driver/errors.ts";

/** A public key whose signatures count. */
export interface TrustedKey {
  /** The file it came from; for people. */
  readonly name: string;
  /** `sha256:` and the digest of its DER form: what receipts name it by. */
  readonly fingerprint: string;
  readonly key: KeyObject;
}

export const keyKinds = ["ecdsa-p256", "ecdsa-p384", "ed25519"] as const;
export type KeyKind = (typeof keyKinds)[number];

const kindsOfCurves: Partial<Record<string, KeyKind>> = { prime256v1: "ecdsa-p256", secp384r1: "ecdsa-p384" };
/** A PEM file of one key is a few hundred bytes. */
export const largestKeyBytes = 16 * 1024;

/**
 * Reads a public key as `cosign generate-key-pair`, `openssl pkey -pubout` and `jmp-agent bundle keygen` write it.
 * @param name what errors call the text
 * @throws AgentError E_INVALID
 */
export function readPublicKey(pem: string, name: string): TrustedKey {
  const labels = labelsOf(pem);
  if (labels.some((label) => label.endsWith("PRIVATE KEY"))) {
    throw new AgentError("E_INVALID", `${name} holds a private key; an exporter gets the public one only`);
  }
  if (labels.length !== 1 || labels[0] !== "PUBLIC KEY") {
    throw new AgentError("E_INVALID", `${name} is not one public key in PEM (BEGIN PUBLIC KEY)`);
  }
  const key = readKey(() => createPublicKey({ key: pem, format: "pem", type: "spki" }), name);
  kindOf(key, name);
  return { name, key, fingerprint: fingerprintOf(key) };
}

/**
 * Reads a private key in PEM.
 * @param passphrase of an encrypted one
 * @throws AgentError E_INVALID; neither the key nor the passphrase is in its text
 */
export function readPrivateKey(pem: string, name: string, passphrase: string | undefined): KeyObject {
  const labels = labelsOf(pem);
  if (labels.some((label) => /^ENCRYPTED (SIGSTORE|COSIGN) PRIVATE KEY$/.test(label))) {
    throw new AgentError("E_INVALID", `${name} is encrypted in cosign's own way`, {
      hint: "sign with cosign itself; its signatures are understood",
    });
  }
  if (pem.includes("ENCRYPTED") && passphrase === undefined) {
    throw new AgentError("E_INVALID", `${name} is encrypted, and there is no passphrase`);
  }
  const key = readKey(() => createPrivateKey({ key: pem, format: "pem", passphrase }), name);
  kindOf(key, name);
  return key;
}

/** Makes a private key; the public one is part of it. */
export function generateKey(kind: KeyKind): KeyObject {
  if (kind === "ed25519") return generateKeyPairSync("ed25519").privateKey;
  const [namedCurve] = Object.entries(kindsOfCurves).find(([, made]) => made === kind) as [string, KeyKind];
  return generateKeyPairSync("ec", { namedCurve }).privateKey;
}

/** A private key in PEM (PKCS #8), encrypted if there is a passphrase. */
export function writePrivateKey(key: KeyObject, passphrase: string | undefined): string {
  const encryption = passphrase === undefined ? {} : { cipher: "aes-256-cbc", passphrase };
  return key.export({ type: "pkcs8", format: "pem", ...encryption }).toString();
}

/** `sha256:` and the digest of the public half in DER. */
export function fingerprintOf(key: KeyObject): string {
  const half = key.type === "private" ? createPublicKey(key) : key;
  return `sha256:${createHash("sha256")
    .update(half.export({ type: "spki", format: "der" }))
    .digest("hex")}`;
}

/** Signs as cosign does: SHA-256 for either curve, as ASN.1; Ed25519 takes the bytes as they are. */
export function signBytes(key: KeyObject, bytes: Uint8Array): Buffer {
  return sign(kindOf(key, "the key") === "ed25519" ? null : "sha256", bytes, key);
}

/** Whether a signature was made of these bytes with this key. What is no signature at all is not. */
export function isSignedBy(key: KeyObject, bytes: Uint8Array, signature: Uint8Array): boolean {
  const kind = kindOf(key, "the key");
  if (kind === "ed25519") return verify(null, bytes, key, signature);
  // Other signers use the digest that is as long as the curve.
  const hashes = kind === "ecdsa-p384" ? ["sha256", "sha384"] : ["sha256"];
  return hashes.some((hash) => verify(hash, bytes, key, signature));
}

/** @throws AgentError E_INVALID for keys of other kinds */
function kindOf(key: KeyObject, name: string): KeyKind {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  const kind = type === "ed25519" ? type : type === "ec" ? kindsOfCurves[details?.namedCurve ?? ""] : undefined;
  if (kind === undefined) {
    throw new AgentError("E_INVALID", `${name} is of a kind that is not used here: ${details?.namedCurve ?? type}`, {
      hint: `use one of ${keyKinds.join(", ")}`,
    });
  }
  return kind;
}

function labelsOf(pem: string): string[] {
  return [...pem.matchAll(/^-----BEGIN ([A-Z0-9 ]+)-----\s*$/gm)].map(([, label = ""]) => label);
}

/** OpenSSL's words are left out: they help nobody, and some name what was read. */
function readKey(read: () => KeyObject, name: string): KeyObject {
  try {
    return read();
  } catch (error) {
    const { code } = error as { code?: string };
    const why = /DECRYPT|PASSPHRASE|BAD_PASS/.test(code ?? "") ? ", or the passphrase is wrong" : "";
    throw new AgentError("E_INVALID", `${name} holds no key that can be read${why}`);
  }
}
