import { join } from "node:path";
import { stateDirectory } from "../../sys/state-directory.ts";

/** Where receipts are kept unless the command line says otherwise. */
export function defaultReceiptDirectory(): string {
  return join(stateDirectory(), "receipts");
}
