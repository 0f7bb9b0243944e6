import { readFile } from "node:fs/promises";
import { AgentError } from "../../driver/errors.ts";
import type { Given, Options } from "../command.ts";

const variable = "JMP_KEY_PASSPHRASE";

export const passphraseOptions = {
  "passphrase-file": { type: "string", value: "FILE", help: "its first line is the private key's passphrase" },
} as const satisfies Options;

/** For the help of commands that take a passphrase. */
export const passphraseNote = `
Environment:
  ${variable}  the private key's passphrase, if no file gives it`;

/**
 * The passphrase of a private key, which is never a word of the command line.
 * @returns undefined if none is given
 * @throws AgentError E_USAGE
 */
export async function readKeyPassphrase(
  options: Given<typeof passphraseOptions>,
  env: NodeJS.ProcessEnv = process.env,
): Promise<string | undefined> {
  const file = options["passphrase-file"];
  const text = file === undefined ? env[variable] : (await readFile(file, "utf8")).split(/\r?\n/, 1)[0];
  // An unset variable in a script must not leave a key unprotected.
  if (text === "") throw new AgentError("E_USAGE", "the passphrase must not be empty");
  return text;
}
