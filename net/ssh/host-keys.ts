import { readFile } from "node:fs/promises";
import * as z from "zod";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { expandHome } from "./identity.ts";
import { parseKnownHosts, type HostKey } from "./known-hosts.ts";

/** Config keys of drivers that can be told which host keys the board has. */
export const hostKeyFields = {
  known_hosts: z
    .string()
    .superRefine((text, context) => {
      try {
        parseKnownHosts(text);
      } catch (error) {
        context.addIssue({ code: "custom", message: (error as Error).message });
      }
    })
    .nullish()
    .describe("the board's host keys, as ssh-keyscan prints them; no other is then accepted"),
  known_hosts_file: z.string().min(1).nullish().describe("path of a file with the same; ~ is the user's home"),
};

export interface HostKeyConfig {
  readonly known_hosts?: string | null | undefined;
  readonly known_hosts_file?: string | null | undefined;
}

export const bothKnownHosts = "Cannot specify both known_hosts and known_hosts_file";

export const hasBothKnownHosts = (config: HostKeyConfig): boolean =>
  Boolean(config.known_hosts) && Boolean(config.known_hosts_file);

/**
 * The host keys that are accepted; undefined: any. The file is read anew each time, as boards are flashed and get new keys.
 * @throws AgentError E_FAILED if the file cannot be read or is none
 */
export async function pinnedHostKeys(config: HostKeyConfig): Promise<readonly HostKey[] | undefined> {
  if (config.known_hosts) return parseKnownHosts(config.known_hosts);
  const path = config.known_hosts_file;
  if (!path) return undefined;
  try {
    return parseKnownHosts(await readFile(expandHome(path), "utf8"));
  } catch (error) {
    const { message } = toAgentError(error);
    throw new AgentError("E_FAILED", `Failed to read known_hosts_file '${path}': ${message}`, { cause: error });
  }
}
