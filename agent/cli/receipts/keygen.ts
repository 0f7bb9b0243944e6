import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toAgentError } from "../../driver/errors.ts";
import { defaultReceiptDirectory } from "../../ops/receipts/place.ts";
import { generateHostKey, keyId, publicPemOf, readPrivateKey } from "../../ops/receipts/signature.ts";
import { makeDirectoryDurably, writeDurably } from "../../stream/durable.ts";
import { defineCommand } from "../command.ts";
import { keyName, publicKeyName, receiptDirectoryOption } from "../receipt-options.ts";

export const keygen = defineCommand({
  name: "receipts keygen",
  summary: "Make the key that signs the receipts of this host from now on. One that is there stays.",
  options: receiptDirectoryOption,
  notes: `
Writes ${keyName}, which only its owner can read, and ${publicKeyName} for those who verify. Agents sign from their next start
on. Whoever can read the first can make receipts of this host: it stays here, and the second goes to the archive.
To change the key, move both away; the old public key goes on to verify old receipts.

Example:
  jmp-agent receipts keygen`,

  async run({ receipts: directory = defaultReceiptDirectory() }) {
    const [keyPath, publicPath] = [join(directory, keyName), join(directory, publicKeyName)];
    try {
      await makeDirectoryDurably(directory);
      await writeFile(keyPath, generateHostKey(), { flag: "wx", mode: 0o600, flush: true });
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "EEXIST") throw toAgentError(thrown);
      process.stderr.write(`${keyPath} is there already, and stays\n`);
    }
    const key = await readPrivateKey(keyPath);
    await writeDurably(publicPath, publicPemOf(key));
    process.stdout.write(`${publicPath}\nkey ${keyId(key)}\n`);
    return 0;
  },
});
