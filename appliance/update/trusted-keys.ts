import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { largestKeyBytes, readPublicKey, type TrustedKey } from "../../bundles/signature/keys.ts";

/** Where the image has the keys of those who may sign its updates, and where jumpstarter.yaml adds some. */
export const keyDirectories = ["/usr/share/jumpstarter-agent/update-keys", "/etc/jumpstarter/update-keys"] as const;

/**
 * Reads all keys that end in `.pub` or `.pem`.
 * @throws AgentError E_CONFIG for a file that is no public key, or if there is none: nothing could be trusted
 */
export async function readTrustedKeys(directories: readonly string[] = keyDirectories): Promise<TrustedKey[]> {
  const keys: TrustedKey[] = [];
  for (const directory of directories) {
    for (const name of await namesIn(directory)) keys.push(await readTrustedKey(join(directory, name)));
  }
  if (keys.length > 0) return keys;
  throw new AgentError("E_CONFIG", `there is no key to check updates with in ${directories.join(" or ")}`, {
    hint: "'jmp-agent bundle keygen' makes a pair; its .pub goes there",
  });
}

/** @throws AgentError E_CONFIG */
export async function readTrustedKey(path: string): Promise<TrustedKey> {
  try {
    const { size } = await stat(path);
    if (size > largestKeyBytes) throw new AgentError("E_INVALID", `${path} has ${size} bytes, too many for a key`);
    return readPublicKey(await readFile(path, "utf8"), path);
  } catch (error) {
    throw new AgentError("E_CONFIG", `a key for updates: ${(error as Error).message}`, { cause: error });
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).filter((name) => /\.(pub|pem)$/.test(name)).sort();
  } catch (error) {
    if (isSystemError(error) && error.code === "ENOENT") return [];
    throw error;
  }
}
