import { readFile } from "node:fs/promises";
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
