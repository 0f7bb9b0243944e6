import { access, readdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { AgentError } from "../driver/errors.ts";

const systemDirectory = "/etc/jumpstarter/exporters";

/** Where configurations are looked for; the first directory that has one wins. */
export function exporterDirectories(env: NodeJS.ProcessEnv): { user: string; system: string } {
  const home =
    env["JMP_CLIENT_CONFIG_HOME"] || join(env["XDG_CONFIG_HOME"] || join(homedir(), ".config"), "jumpstarter");
  return { user: join(home, "exporters"), system: systemDirectory };
}

/**
 * The file of an exporter that is named by its alias.
 * @throws AgentError E_CONFIG for a name that is no alias, or one that neither directory has
 */
export async function findExporterConfig(
  alias: string,
  directories: { user: string; system: string } = exporterDirectories(process.env),
): Promise<string> {
  if (alias === "" || alias === "." || alias === ".." || /[/\\\0]/.test(alias)) {
    throw new AgentError(
      "E_CONFIG",
      `Invalid exporter alias '${alias}': must not contain path separators or be '.' / '..'`,
    );
  }
  const candidates = [join(directories.user, `${alias}.yaml`), join(directories.system, `${alias}.yaml`)];
  for (const candidate of candidates) {
    if (await exists(candidate)) return candidate;
  }
  throw new AgentError("E_CONFIG", `no exporter '${alias}': ${candidates.join(" and ")} do not exist`);
}

/** The files of all exporters in both directories; the user's file hides the system's of the same name. */
export async function listExporterConfigs(
  directories: { user: string; system: string } = exporterDirectories(process.env),
): Promise<string[]> {
  const byAlias = new Map<string, string>();
  for (const directory of [directories.system, directories.user]) {
    for (const name of await readdir(directory).catch(nothingThere)) {
      if (name.endsWith(".yaml") && !name.startsWith(".")) byAlias.set(name, join(directory, name));
    }
  }
  return [...byAlias.keys()].sort().map((name) => byAlias.get(name) as string);
}

function nothingThere(thrown: NodeJS.ErrnoException): string[] {
  if (thrown.code === "ENOENT") return [];
  throw thrown;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (thrown) {
    // Only what is not there is passed over: a file that cannot be read must be told, not its namesake used.
    return (thrown as NodeJS.ErrnoException).code !== "ENOENT";
  }
}
