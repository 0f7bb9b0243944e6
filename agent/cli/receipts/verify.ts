import { join } from "node:path";
import { AgentError, toAgentError } from "../../driver/errors.ts";
import { defaultReceiptDirectory } from "../../ops/receipts/place.ts";
import { keyId, readPublicKey, verifyReceipt } from "../../ops/receipts/signature.ts";
import { readBounded, ReceiptStore } from "../../ops/receipts/store.ts";
import { defineCommand } from "../command.ts";
import { publicKeyName, receiptDirectoryOption } from "../receipt-options.ts";
import { findReceipt } from "./sources.ts";
import { printable } from "./text.ts";

export const verify = defineCommand({
  name: "receipts verify",
  summary: "Check that receipts are as they were signed. Exit code 1 if one is not.",
  words: { usage: "ID|FILE ...", least: 1, most: 1_000 },
  options: {
    ...receiptDirectoryOption,
    key: { type: "string", value: "FILE", help: "the host's public key (host-key.pub.pem beside the receipts)" },
  },
  notes: `
ID is the beginning of an id, or 'latest'. The signature of a FILE is looked for beside it: receipt.dsse.json for receipt.json.
A key that came with the receipts proves nothing: give the one that you got from the host before.

Examples:
  jmp-agent receipts verify latest
  jmp-agent receipts verify archive/*.json --key rack-3.pub.pem`,

  async run({ receipts: directory = defaultReceiptDirectory(), key: keyPath = join(directory, publicKeyName) }, words) {
    const store = new ReceiptStore({ directory });
    const key = await readPublicKey(keyPath);
    let bad = 0;
    for (const word of words) {
      if (word.endsWith(".dsse.json")) continue;
      try {
        const { name, text, envelopePath, receipt } = await findReceipt(store, word);
        const envelope = await readBounded(envelopePath).catch((error: unknown) => {
          throw new AgentError("E_DIGEST", `it is not signed: ${toAgentError(error).message}`);
        });
        verifyReceipt(text, envelope, key);
        process.stdout.write(`ok   ${printable(name)}  ${receipt.verdict}  key ${keyId(key).slice(0, 16)}\n`);
      } catch (thrown) {
        bad += 1;
        process.stdout.write(`BAD  ${printable(word)}  ${printable(toAgentError(thrown).message)}\n`);
      }
    }
    return bad === 0 ? 0 : 1;
  },
});
