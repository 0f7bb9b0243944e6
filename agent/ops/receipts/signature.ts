import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
  verify,
  type KeyObject,
} from "node:crypto";
import { open } from "node:fs/promises";
import * as z from "zod";
import { AgentError, toAgentError } from "../../driver/errors.ts";

const payloadType = "application/vnd.jumpstarter-agent.flash-receipt.v1+json";

/** A DSSE envelope (https://github.com/secure-systems-lab/dsse), as in-toto and cosign use it. */
const envelopeShape = z.object({
  payloadType: z.literal(payloadType),
  payload: z.base64(),
  signatures: z
    .array(z.object({ keyid: z.string(), sig: z.base64() }))
    .min(1)
    .max(16),
});

/** A new ed25519 key, in PEM. */
export function generateHostKey(): string {
  const { privateKey } = generateKeyPairSync("ed25519");
  return privateKey.export({ type: "pkcs8", format: "pem" }).toString();
}

export function publicPemOf(privateKey: KeyObject): string {
  return createPublicKey(privateKey).export({ type: "spki", format: "pem" }).toString();
}

/** @throws AgentError E_CONFIG if it is no ed25519 key, or one that others can read; E_IO */
export async function readPrivateKey(path: string): Promise<KeyObject> {
  const { text, mode } = await readSmallFile(path);
  if ((mode & 0o077) !== 0) throw new AgentError("E_CONFIG", `${path} is open to other users: chmod 600 it`);
  return readKey(path, () => createPrivateKey(text));
}

/** @param path of a public key, or of a private one. @throws AgentError E_CONFIG if it is no ed25519 key; E_IO */
export async function readPublicKey(path: string): Promise<KeyObject> {
  const { text } = await readSmallFile(path);
  return readKey(path, () => createPublicKey(text));
}

/** SHA-256 of the public key's DER form (SPKI), in hex. */
export function keyId(key: KeyObject): string {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  return createHash("sha256")
    .update(publicKey.export({ type: "spki", format: "der" }))
    .digest("hex");
}

/** @returns the text of a DSSE envelope */
export function signReceipt(text: string, key: KeyObject): string {
  const payload = Buffer.from(text);
  const signature = sign(null, preAuthenticationEncoding(payload), key);
  const signatures = [{ keyid: keyId(key), sig: signature.toString("base64") }];
  return JSON.stringify({ payloadType, payload: payload.toString("base64"), signatures }) + "\n";
}

/**
 * Checks that an envelope was signed with this key and holds this receipt, byte for byte.
 * @throws AgentError E_DIGEST saying what is not so
 */
export function verifyReceipt(text: string, envelopeText: string, key: KeyObject): void {
  const refuse = (message: string) => new AgentError("E_DIGEST", message);
  let envelope;
  try {
    envelope = envelopeShape.parse(JSON.parse(envelopeText));
  } catch (cause) {
    throw new AgentError("E_DIGEST", "its signature is no DSSE envelope of a receipt", { cause });
  }
  const payload = Buffer.from(envelope.payload, "base64");
  const wanted = keyId(key);
  // Key ids are hints, in DSSE; what counts is the signature.
  const signed = preAuthenticationEncoding(payload);
  if (!envelope.signatures.some(({ sig }) => verify(null, signed, key, Buffer.from(sig, "base64")))) {
    const named = envelope.signatures.map(({ keyid }) => keyid);
    if (named.includes(wanted)) throw refuse("its signature does not match: it was changed");
    throw refuse(`it was signed with another key: ${named.join(", ")}, not ${wanted}`);
  }
  if (!payload.equals(Buffer.from(text))) throw refuse("the receipt was changed after it was signed");
}

/** What is signed: `DSSEv1 LENGTH TYPE LENGTH PAYLOAD`. */
function preAuthenticationEncoding(payload: Buffer): Buffer {
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${Buffer.byteLength(payloadType)} ${payloadType} ${payload.length} `),
    payload,
  ]);
}

function readKey(path: string, read: () => KeyObject): KeyObject {
  let key;
  try {
    key = read();
  } catch (cause) {
    throw new AgentError("E_CONFIG", `${path} holds no key in PEM that can be read`, { cause });
  }
  if (key.asymmetricKeyType === "ed25519") return key;
  throw new AgentError("E_CONFIG", `${path} holds a key of type ${key.asymmetricKeyType}; receipts need ed25519`);
}

async function readSmallFile(path: string): Promise<{ text: string; mode: number }> {
  try {
    const file = await open(path);
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(64 * 1024));
      return { text: buffer.toString("utf8", 0, bytesRead), mode: (await file.stat()).mode };
    } finally {
      await file.close();
    }
  } catch (thrown) {
    throw toAgentError(thrown);
  }
}
