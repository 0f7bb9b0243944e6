import { existsSync } from "node:fs";
import { mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { AgentError } from "../driver/errors.ts";
import { findProgram } from "./find-program.ts";

/** Stands first on the hook's PATH. */
export function launcherDirectory(directory: string): string {
  return join(directory, "bin");
}

/** Puts a `j` there: the one that `JMP_AGENT_J` names, or our own. @throws the system's error; AgentError */
export async function installLauncher(directory: string, env: NodeJS.ProcessEnv): Promise<void> {
  const folder = launcherDirectory(directory);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, "j");
  await rm(path, { force: true });
  const other = env["JMP_AGENT_J"];
  if (other) await symlink(resolve(findProgram(other, env["PATH"])), path);
  else await writeFile(path, script([process.execPath, ...ownJ()]), { mode: 0o700 });
}

function script(words: readonly string[]): string {
  return `#!/bin/sh\nexec ${words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ")} "$@"\n`;
}

/** What Node is to run: `j.js` beside the agent that runs now, or its source when that is what runs. */
function ownJ(): string[] {
  const here = import.meta.url;
  if (here.endsWith(".ts")) return ["--import", import.meta.resolve("tsx"), pathOf("../cli/j.ts")];
  // This code may be in a chunk of the bundle, which is one folder deeper.
  const found = [pathOf("./j.js"), pathOf("../j.js")].find((path) => existsSync(path));
  if (found === undefined) throw new AgentError("E_FAILED", "j.js does not lie beside the agent");
  return [found];
}

function pathOf(relative: string): string {
  return fileURLToPath(new URL(relative, import.meta.url));
}
