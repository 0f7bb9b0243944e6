/** Finds the Python that has Jumpstarter, and asks it what it could run. */
import { execFile } from "node:child_process";
import { accessSync, constants, openSync, readSync, closeSync, realpathSync, statSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import * as z from "zod";
import { AgentError, toAgentError } from "../driver/errors.ts";

/** Names the Python of all side-cars: the program, or the directory of a virtual environment. */
export const pythonVariable = "JMP_AGENT_PYTHON";

const probeLimitMs = 30_000;

/**
 * The Python for side-cars: the entry's own, else that of the environment variable, else the one that runs `jmp`, else
 * `python3`. Whether it has Jumpstarter shows when it is started.
 */
export function findPython(configured: string | undefined, env: NodeJS.ProcessEnv = process.env): string | undefined {
  const named = configured ?? (env[pythonVariable] || undefined);
  if (named !== undefined) return isDirectory(named) ? join(named, "bin/python3") : named;
  const jmp = onPath("jmp", env);
  return (jmp === undefined ? undefined : interpreterOf(jmp)) ?? onPath("python3", env);
}

/** Which Python runs a console script: its first line, else the one that lies beside it. */
function interpreterOf(script: string): string | undefined {
  const beside = (path: string) => [join(dirname(path), "python3"), join(dirname(path), "python")].find(isProgram);
  const [, named] = /^#!\s*(\S*python[\d.]*)\s*$/m.exec(firstLines(script)) ?? [];
  return named !== undefined && isProgram(named) ? named : (beside(script) ?? beside(realpathSync(script)));
}

function firstLines(path: string): string {
  const file = openSync(path, "r");
  try {
    const head = Buffer.alloc(512);
    return head.toString("utf8", 0, readSync(file, head, 0, head.length, 0));
  } finally {
    closeSync(file);
  }
}

function onPath(name: string, env: NodeJS.ProcessEnv): string | undefined {
  return (env["PATH"] ?? "")
    .split(delimiter)
    .filter((directory) => directory !== "")
    .map((directory) => join(directory, name))
    .find(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** Whether it looks as if this Python has Jumpstarter; imports nothing, as that takes a second. */
export async function hasJumpstarter(python: string, env: NodeJS.ProcessEnv = process.env): Promise<boolean> {
  const look = "import importlib.util as u, sys; sys.exit(u.find_spec('jumpstarter') is None)";
  const options = { env: { ...env, PYTHONSAFEPATH: "1" }, timeout: probeLimitMs, killSignal: "SIGKILL" } as const;
  return await promisify(execFile)(python, ["-c", look], options).then(
    () => true,
    () => false,
  );
}

const answer = z.object({
  client: z.string().optional(),
  version: z.string().optional(),
  missing: z.string().optional(),
});

/** What a Python knows of a driver class. */
export interface Probed {
  /** Python client class of the driver. */
  readonly client?: string | undefined;
  /** Release of Jumpstarter. */
  readonly version?: string | undefined;
  /** Why the class cannot be had; undefined if it can. */
  readonly missing?: string | undefined;
}

/** Imports the class and makes nothing of it. */
const question = `
import importlib, json, sys
def ask(path):
    try:
        from importlib.metadata import version
        import jumpstarter.driver
        module, name = path.rsplit(".", 1)
        return {"version": version("jumpstarter"), "client": getattr(importlib.import_module(module), name).client()}
    except Exception as error:
        return {"missing": f"{error}" or type(error).__name__}
answer = ask(sys.argv[1])
print("\\n" + json.dumps(answer))
`;

/** @throws AgentError if this Python cannot be asked at all */
export async function probe(python: string, type: string, env: NodeJS.ProcessEnv = process.env): Promise<Probed> {
  try {
    const { stdout } = await promisify(execFile)(python, ["-c", question, type], {
      env: { ...env, PYTHONSAFEPATH: "1" },
      timeout: probeLimitMs,
      killSignal: "SIGKILL",
    });
    return answer.parse(JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? ""));
  } catch (thrown) {
    throw new AgentError("E_FAILED", `${python} cannot be asked: ${toAgentError(thrown).message}`, { cause: thrown });
  }
}
