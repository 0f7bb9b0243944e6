import { homedir } from "node:os";
import { join } from "node:path";

/** Where receipts are kept unless the command line says otherwise: systemd's state directory, else that of root or of this user. */
export function defaultReceiptDirectory(env: NodeJS.ProcessEnv = process.env): string {
  // systemd lists several, separated by colons.
  const state = env["STATE_DIRECTORY"]?.split(":")[0];
  return join(state || ownState(env), "receipts");
}

function ownState(env: NodeJS.ProcessEnv): string {
  const states = process.geteuid?.() === 0 ? "/var/lib" : env["XDG_STATE_HOME"] || join(homedir(), ".local", "state");
  return join(states, "jumpstarter-agent");
}
