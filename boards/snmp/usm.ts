import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/** The User-based Security Model's arithmetic: RFC 3414 (MD5, SHA, DES), RFC 3826 (AES), RFC 7860 (SHA-2). */

/** Hash, and how much of it a message carries. */
const authentications = {
  MD5: { hash: "md5", codeBytes: 12 },
  SHA: { hash: "sha1", codeBytes: 12 },
  "SHA-256": { hash: "sha256", codeBytes: 24 },
  "SHA-512": { hash: "sha512", codeBytes: 48 },
} as const;
export type AuthProtocol = keyof typeof authentications;

const privacies = {
  // Single DES has left OpenSSL; three times with the same key is the same.
  DES: { cipher: "des-ede3-cbc", keyBytes: 8 },
  AES: { cipher: "aes-128-cfb", keyBytes: 16 },
  "AES-256": { cipher: "aes-256-cfb", keyBytes: 32 },
} as const;
export type PrivProtocol = keyof typeof privacies;

const megabyte = 1024 * 1024;
const desBlockBytes = 8;

/** A passphrase's key for one engine (RFC 3414 §2.6). Takes milliseconds. */
export function localizedKey(protocol: AuthProtocol, passphrase: string, engineId: Uint8Array): Buffer {
  const { hash } = authentications[protocol];
  const master = createHash(hash).update(Buffer.alloc(megabyte, passphrase)).digest();
  return createHash(hash).update(master).update(engineId).update(master).digest();
}

/** A key for encryption: hashes that are too short are hashed on (draft-blumenthal-aes-usm-04 §3.1.2.1, as net-snmp does). */
export function privacyKey(auth: AuthProtocol, priv: PrivProtocol, passphrase: string, engineId: Uint8Array): Buffer {
  let key: Buffer = localizedKey(auth, passphrase, engineId);
  const least = priv === "DES" ? privacies.DES.keyBytes + desBlockBytes : privacies[priv].keyBytes;
  while (key.length < least) key = Buffer.concat([key, createHash(authentications[auth].hash).update(key).digest()]);
  return key.subarray(0, least);
}

export const codeBytes = (protocol: AuthProtocol): number => authentications[protocol].codeBytes;

/** Code of a message whose own code is zeros. */
export function authenticationCode(protocol: AuthProtocol, key: Buffer, message: Uint8Array): Buffer {
  const { hash, codeBytes: size } = authentications[protocol];
  return createHmac(hash, key).update(message).digest().subarray(0, size);
}

export function isAuthentic(protocol: AuthProtocol, key: Buffer, message: Uint8Array, at: number): boolean {
  const size = codeBytes(protocol);
  const given = message.slice(at, at + size);
  if (given.length !== size) return false;
  const blank = Uint8Array.from(message);
  blank.fill(0, at, at + size);
  return timingSafeEqual(authenticationCode(protocol, key, blank), given);
}

/** The clock of an engine, which is a part of the ciphers' start. */
interface EngineClock {
  readonly engineBoots: number;
  readonly engineTime: number;
}

/** @returns what was encrypted, and the message's privacy parameters */
export function encrypt(protocol: PrivProtocol, key: Buffer, clock: EngineClock, plain: Uint8Array) {
  const salt = randomBytes(8);
  const padding = protocol === "DES" ? (desBlockBytes - (plain.length % desBlockBytes)) % desBlockBytes : 0;
  const cipher = createCipheriv(
    privacies[protocol].cipher,
    cipherKey(protocol, key),
    start(protocol, key, clock, salt),
  );
  cipher.setAutoPadding(false);
  const data = Buffer.concat([cipher.update(plain), cipher.update(Buffer.alloc(padding)), cipher.final()]);
  return { data, privacy: salt };
}

/** @throws Error of the cipher for data of a length that it cannot have */
export function decrypt(
  protocol: PrivProtocol,
  key: Buffer,
  clock: EngineClock,
  { data, privacy }: { data: Uint8Array; privacy: Uint8Array },
): Buffer {
  const cipher = createDecipheriv(
    ...([privacies[protocol].cipher, cipherKey(protocol, key), start(protocol, key, clock, privacy)] as const),
  );
  cipher.setAutoPadding(false);
  return Buffer.concat([cipher.update(data), cipher.final()]);
}

function cipherKey(protocol: PrivProtocol, key: Buffer): Buffer {
  const own = key.subarray(0, privacies[protocol].keyBytes);
  return protocol === "DES" ? Buffer.concat([own, own, own]) : own;
}

function start(
  protocol: PrivProtocol,
  key: Buffer,
  { engineBoots, engineTime }: EngineClock,
  salt: Uint8Array,
): Buffer {
  if (salt.length !== 8) throw new Error("privacy parameters must have 8 bytes");
  if (protocol === "DES") return Buffer.from(salt.map((byte, at) => byte ^ (key[desBlockBytes + at] as number)));
  const clock = Buffer.alloc(8);
  clock.writeUInt32BE(engineBoots >>> 0, 0);
  clock.writeUInt32BE(engineTime >>> 0, 4);
  return Buffer.concat([clock, salt]);
}
