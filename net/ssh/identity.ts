import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import * as z from "zod";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";

/** Config keys of everything that has a private key for a board. */
export const identityFields = {
  ssh_identity: z.string().nullish().describe("the private key itself"),
  ssh_identity_file: z.string().nullish().describe("path of the private key on the exporter; ~ is its user's home"),
};

export interface IdentityConfig {
  readonly ssh_identity?: string | null | undefined;
  readonly ssh_identity_file?: string | null | undefined;
}

export const bothIdentities = "Cannot specify both ssh_identity and ssh_identity_file";

/** True if neither is given; empty text counts as nothing. */
export const lacksIdentity = (config: IdentityConfig): boolean => !config.ssh_identity && !config.ssh_identity_file;

export const hasBothIdentities = (config: IdentityConfig): boolean =>
  Boolean(config.ssh_identity) && Boolean(config.ssh_identity_file);

/** `~` and `~/…` as a shell reads them. */
export function expandHome(path: string): string {
  return path === "~" || path.startsWith("~/") ? join(homedir(), path.slice(1)) : path;
}

/**
 * Reads the private key when it is wanted. One that was read is kept: a lease must not break because its file goes.
 * @throws AgentError E_FAILED with the file's name and the reason; nothing of the key
 */
export function identityOf(config: IdentityConfig): () => Promise<string | null> {
  let known: string | undefined;
  return async () => {
    if (lacksIdentity(config)) return null;
    known ??= withLastLineEnded(config.ssh_identity || (await readIdentity(config.ssh_identity_file ?? "")));
    return known;
  };
}

async function readIdentity(path: string): Promise<string> {
  try {
    return await readFile(expandHome(path), "utf8");
  } catch (error) {
    const { message } = toAgentError(error);
    throw new AgentError("E_FAILED", `Failed to read ssh_identity_file '${path}': ${message}`, { cause: error });
  }
}

/** OpenSSH takes no key whose last line lacks its end, which YAML's `|-` and editors like to drop. */
function withLastLineEnded(key: string): string {
  return key.endsWith("-----") ? `${key}\n` : key;
}
