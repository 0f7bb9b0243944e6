import { access } from "node:fs/promises";
import { join } from "node:path";
import type { KeyObject } from "node:crypto";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import { keepReceipts, type ReceiptKeepers } from "../ops/receipts/keeper.ts";
import { defaultReceiptDirectory } from "../ops/receipts/place.ts";
import { readPrivateKey } from "../ops/receipts/signature.ts";
import { ReceiptStore } from "../ops/receipts/store.ts";
import type { Given, Options } from "./command.ts";
import { version } from "./version.ts";

export const receiptDirectoryOption = {
  receipts: { type: "string", value: "DIR", help: "where receipts of flashes are (in the state directory)" },
} as const satisfies Options;

export const receiptOptions = {
  ...receiptDirectoryOption,
  "receipt-key": {
    type: "string",
    value: "FILE",
    help: "the key that signs receipts (host-key.pem in their directory, if there is one)",
  },
} as const satisfies Options;

export const keyName = "host-key.pem";
export const publicKeyName = "host-key.pub.pem";

/**
 * The receipts of this host. Tells what agents that were killed have left unfinished.
 * @throws AgentError E_USAGE for a key that cannot sign: what is signed only at times proves nothing
 */
export async function openReceipts(
  given: Given<typeof receiptOptions>,
  log: Pick<Logger, "warn">,
): Promise<{ readonly store: ReceiptStore; readonly keepers: ReceiptKeepers }> {
  const directory = given.receipts ?? defaultReceiptDirectory();
  const store = new ReceiptStore({ directory, key: await findKey(given["receipt-key"], join(directory, keyName)) });
  try {
    for (const { id, exporter } of await store.settle()) {
      log.warn(`a flash of ${exporter} was interrupted: 'jmp-agent receipts show ${id}'`);
    }
  } catch (error) {
    log.warn(`receipts in ${directory}: ${toAgentError(error).message}`);
  }
  return { store, keepers: (facts) => keepReceipts(store, version, facts) };
}

async function findKey(given: string | undefined, usual: string): Promise<KeyObject | undefined> {
  if (given === undefined && !(await access(usual).then(() => true, isThere))) return undefined;
  try {
    return await readPrivateKey(given ?? usual);
  } catch (thrown) {
    throw new AgentError("E_USAGE", `the key for receipts: ${toAgentError(thrown).message}`, { cause: thrown });
  }
}

/** What cannot be looked at is there, and the reason will be told. */
function isThere(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code !== "ENOENT";
}
