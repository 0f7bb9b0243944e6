import type { FlashReceipt } from "../../driver/receipt.ts";
import { AgentError } from "../../driver/errors.ts";
import { parseReceipt, receiptText } from "../../ops/receipts/format.ts";
import { readBounded, type ReceiptStore } from "../../ops/receipts/store.ts";

/** A receipt that was asked for, wherever it lies. */
export interface FoundReceipt {
  /** What was asked for, in full. */
  readonly name: string;
  readonly receipt: FlashReceipt;
  /** The file's text, byte for byte. */
  readonly text: string;
  /** Where its signature is, if it has one. */
  readonly envelopePath: string;
}

/**
 * @param word `latest`, the beginning of an id, or a file: what holds a slash or ends in `.json`
 * @throws AgentError E_USAGE if there is none, E_INVALID if it is none, E_IO
 */
export async function findReceipt(store: ReceiptStore, word: string): Promise<FoundReceipt> {
  if (word.includes("/") || word.endsWith(".json")) {
    const text = await readBounded(word);
    return { name: word, receipt: parseReceipt(text), text, envelopePath: word.replace(/(\.json)?$/, ".dsse.json") };
  }
  const id = await store.find(word);
  const flash = await store.get(id);
  if (flash.state === "damaged") throw new AgentError("E_INVALID", `${id}: ${flash.problem}`);
  if (flash.state === "running") throw new AgentError("E_NOT_READY", `${id} goes on; its receipt comes at its end`);
  const text = await readBounded(store.path(id, "receipt")).catch(() => receiptText(flash.receipt));
  return { name: id, receipt: flash.receipt, text, envelopePath: store.path(id, "envelope") };
}
