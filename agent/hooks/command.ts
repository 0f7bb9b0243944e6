import { statSync } from "node:fs";
import { extname } from "node:path";
import { defaultPath } from "./find-program.ts";
import { launcherDirectory } from "./launcher.ts";
import type { HookConfig, HookContext } from "./hook.ts";

/** What is run for a hook: a file if the script is the path of one, else the script itself as the interpreter's `-c`. */
export function commandOf(
  { script, exec }: Pick<HookConfig, "script" | "exec">,
  env: NodeJS.ProcessEnv,
): [interpreter: string, ...words: string[]] {
  const path = script.trim();
  if (path.includes("\n") || !isRegularFile(path)) return [exec ?? "/bin/sh", "-c", script];
  if (exec !== null) return [exec, path];
  // Such hooks import the Python client.
  if (extname(path).toLowerCase() === ".py") return [env["JMP_PYTHON"] || "python3", path];
  return ["/bin/sh", path];
}

function isRegularFile(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  } catch {
    return false; // too long for a path, say
  }
}

export function environmentOf(context: HookContext, motdFile: string | undefined): NodeJS.ProcessEnv {
  const { PS1: _prompt, JMP_MOTD_FILE: _inherited, ...inherited } = context.env;
  return {
    ...inherited,
    PATH: `${launcherDirectory(context.directory)}:${inherited["PATH"] ?? defaultPath}`,
    JUMPSTARTER_HOST: context.hookSocket,
    JMP_DRIVERS_ALLOW: "UNSAFE",
    LEASE_NAME: context.lease,
    CLIENT_NAME: context.client,
    ...(motdFile === undefined ? {} : { JMP_MOTD_FILE: motdFile }),
    // There is a terminal, so that output comes line by line; there is nobody at it.
    TERM: "dumb",
    DEBIAN_FRONTEND: "noninteractive",
    GIT_TERMINAL_PROMPT: "0",
  };
}
