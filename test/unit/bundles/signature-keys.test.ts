import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { test } from "node:test";
import { isSignedBy, readPrivateKey, readPublicKey, signBytes } from "../../../bundles/signature/keys.ts";
import { keyPair } from "../../sim/signing.ts";

const pkcs8 = (key: KeyObject, passphrase?: string) =>
  key.export({
    type: "pkcs8",
    format: "pem",
    ...(passphrase === undefined ? {} : { cipher: "aes-256-cbc", passphrase }),
  }) as string;

test("a public key has the fingerprint that openssl gives it", () => {
  const { pem, trusted } = keyPair("P-256");
  const der = execFileSync("openssl", ["pkey", "-pubin", "-outform", "DER"], { input: pem });
  const sum = execFileSync("openssl", ["dgst", "-sha256", "-r"], { input: der, encoding: "utf8" });
  assert.equal(trusted.fingerprint, `sha256:${sum.slice(0, 64)}`);
});

test("signatures of openssl count, over P-384 with either digest", (t) => {
  const { privateKey, trusted } = keyPair("P-384");
  const text = Buffer.from("text");
  const script =
    'key=$(mktemp); trap "rm $key" EXIT; printf %s "$KEY" > $key; printf text | openssl dgst -$HASH -sign $key';
  for (const HASH of ["sha256", "sha384", "sha512"]) {
    const env = { ...process.env, KEY: pkcs8(privateKey), HASH };
    const signature = execFileSync("bash", ["-c", script], { env });
    t.diagnostic(`${HASH}: ${signature.length} bytes`);
    assert.equal(isSignedBy(trusted.key, text, signature), HASH !== "sha512", HASH);
  }
});

test("keys of other kinds, private ones and what is no key are refused by name", () => {
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({ type: "spki", format: "pem" });
  const p521 = generateKeyPairSync("ec", { namedCurve: "P-521" }).publicKey.export({ type: "spki", format: "pem" });
  const { privateKey, pem } = keyPair("P-256");
  const cases: [string | Buffer, RegExp][] = [
    [rsa, /^k\.pub is of a kind that is not used here: rsa$/],
    [p521, /^k\.pub is of a kind that is not used here: secp521r1$/],
    [pkcs8(privateKey), /^k\.pub holds a private key; an exporter gets the public one only$/],
    [pem + pem, /^k\.pub is not one public key in PEM/],
    [pem + pkcs8(privateKey), /holds a private key/],
    ["", /is not one public key in PEM/],
    ["-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", /^k\.pub holds no key that can be read$/],
    ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", /is not one public key in PEM/],
  ];
  for (const [text, message] of cases) {
    assert.throws(() => readPublicKey(text.toString(), "k.pub"), { code: "E_INVALID", message });
  }
});

test("a private key is read with its passphrase, and no error says what it is", () => {
  const { privateKey, trusted } = keyPair("ed25519");
  const text = Buffer.from("text");
  const encrypted = pkcs8(privateKey, "open sesame");
  assert.ok(isSignedBy(trusted.key, text, signBytes(readPrivateKey(encrypted, "k.key", "open sesame"), text)));
  assert.ok(isSignedBy(trusted.key, text, signBytes(readPrivateKey(pkcs8(privateKey), "k.key", undefined), text)));
  const cosign = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n";
  const cases: [string, string | undefined, RegExp][] = [
    [encrypted, undefined, /^k\.key is encrypted, and there is no passphrase$/],
    [encrypted, "open barley", /^k\.key holds no key that can be read, or the passphrase is wrong$/],
    [encrypted, "", /^k\.key holds no key that can be read, or the passphrase is wrong$/],
    [cosign, "x", /^k\.key is encrypted in cosign's own way$/],
    ["nothing", undefined, /^k\.key holds no key that can be read$/],
  ];
  for (const [pem, passphrase, message] of cases) {
    assert.throws(() => readPrivateKey(pem, "k.key", passphrase), { code: "E_INVALID", message });
  }
});
