import { readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { isSystemError, toAgentError } from "../driver/errors.ts";

/**
 * The token that the service manager holds for a configuration without one (systemd.exec(5), LoadCredential=): `token_bench` for
 * `bench.yaml`, in a directory that only this service can read. It is read once, when the service starts.
 * @returns undefined if there is none, or an empty one
 * @throws AgentError E_IO for one that cannot be read
 */
export async function tokenCredential(file: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const directory = env["CREDENTIALS_DIRECTORY"];
  if (!directory) return undefined;
  try {
    const text = await readFile(join(directory, `token_${basename(file, ".yaml")}`), "utf8");
    return text.trim() || undefined;
  } catch (error) {
    if (isSystemError(error) && error.code === "ENOENT") return undefined;
    throw toAgentError(error);
  }
}

const othersMayRead = 0o004;

/** What to say of a configuration with a token in it that every user of this machine can read; undefined if they cannot. */
export async function exposedToken(file: string): Promise<{ text: string; hint: string } | undefined> {
  if (((await stat(file)).mode & othersMayRead) === 0) return undefined;
  return { text: `${file}: every user of this machine can read the token in it`, hint: `chmod 600 ${file}` };
}
