import { createPublicKey } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { isSystemError, AgentError } from "../../driver/errors.ts";
import {
  generateKey,
  keyKinds,
  fingerprintOf,
  writePrivateKey,
  type KeyKind,
} from "../../../bundles/signature/keys.ts";
import { defineCommand } from "../command.ts";
import { passphraseNote, passphraseOptions, readKeyPassphrase } from "./signing-key.ts";

export const keygen = defineCommand({
  name: "bundle keygen",
  summary: "Make a pair of keys to sign bundles with.",
  words: { usage: "NAME", least: 1, most: 1 },
  options: {
    type: { type: "string", value: "TYPE", choices: keyKinds, help: `${keyKinds.join(", ")} (ecdsa-p256)` },
    ...passphraseOptions,
  },
  notes: `
Writes NAME.key, which only its owner may read, and NAME.pub, which exporters list under signature_keys. Neither may be there
already. With a passphrase the private key is encrypted (PKCS #8); 'cosign import-key-pair --key NAME.key' takes it, too.
${passphraseNote}

Example:
  jmp-agent bundle keygen lab --passphrase-file passphrase.txt`,

  async run(options, [name = ""]) {
    const passphrase = await readKeyPassphrase(options);
    const key = generateKey((options.type ?? "ecdsa-p256") as KeyKind);
    const pem = createPublicKey(key).export({ type: "spki", format: "pem" });
    await writeNew(`${name}.key`, writePrivateKey(key, passphrase), 0o600);
    await writeNew(`${name}.pub`, pem.toString(), 0o644);
    const note = passphrase === undefined ? ", not encrypted" : "";
    process.stdout.write(`${name}.key${note}\n${name}.pub ${fingerprintOf(key)}\n`);
    return 0;
  },
});

/** A key that is there is never written over. */
async function writeNew(path: string, text: string, mode: number): Promise<void> {
  try {
    await writeFile(path, text, { flag: "wx", mode });
  } catch (error) {
    if (!isSystemError(error) || error.code !== "EEXIST") throw error;
    throw new AgentError("E_INVALID", `${path} is there already`, { cause: error });
  }
}
