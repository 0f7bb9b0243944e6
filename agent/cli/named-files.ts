/** Files that options name. */
import { readFile } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Credentials } from "../sys/tls-files.ts";

/**
 * @param options the options that name the files are this with `-cert` and `-key` behind it
 * @throws AgentError E_USAGE for files that cannot be read, E_CONFIG for files that do not serve
 */
export async function readTls(options: string, certFile: string, keyFile: string): Promise<Credentials> {
  const cert = await readNamed(`${options}-cert`, certFile);
  const key = await readNamed(`${options}-key`, keyFile);
  // Each alone first, so that the message names the right file.
  const check = (what: string, parts: Partial<Credentials>) => {
    try {
      createSecureContext(parts);
    } catch (thrown) {
      throw new AgentError("E_CONFIG", `${options}-${what} (${(thrown as Error).message})`, { cause: thrown });
    }
  };
  check(`cert: ${certFile} is not a PEM certificate`, { cert });
  check(`key: ${keyFile} is not a PEM private key without a password`, { key });
  check(`key: ${keyFile} does not belong to the certificate ${certFile}`, { cert, key });
  return { cert, key };
}

/** Reads a file that an option names. @throws AgentError E_USAGE */
export async function readNamed(option: string, file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (thrown) {
    throw new AgentError("E_USAGE", `${option}: ${toAgentError(thrown).message}`, { cause: thrown });
  }
}
