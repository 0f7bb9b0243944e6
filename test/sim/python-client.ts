import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
// The script that makes these environments is plain JavaScript: it runs before anything is installed.
import { clientDirectory, clientVersions } from "../../scripts/python-clients.mjs";

export { clientVersions };

/** Why the tests with this release of the Python client cannot run here, or false. Never a reason in CI. */
export function missingClient(version: string): string | false {
  if (existsSync(join(clientDirectory(version), "complete"))) return false;
  if (process.env["CI"]) throw new Error(`Python client ${version} is missing: node scripts/python-clients.mjs`);
  return `Python client ${version} is not installed: node scripts/python-clients.mjs`;
}

export interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end. A program that takes longer than `timeoutMs` is killed and the promise rejects. */
export function run(
  command: string,
  args: readonly string[],
  options: { env?: Record<string, string>; input?: string; timeoutMs?: number } = {},
): Promise<Finished> {
  const timeoutMs = options.timeoutMs ?? 300_000;
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: "pipe", env: { ...process.env, ...options.env } });
    let stdout = "";
    let stderr = "";
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new Error(`${command} ${args.join(" ")}: not done in ${timeoutMs} ms\n${stdout}\n${stderr}`));
    }, timeoutMs);
    child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    child.on("error", reject);
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve({ code, stdout, stderr });
    });
    child.stdin.on("error", () => {});
    child.stdin.end(options.input ?? "");
  });
}

/** A program of a client release: python, j or jmp. */
export function clientProgram(version: string, program: "python" | "j" | "jmp"): string {
  return join(clientDirectory(version), "bin", program);
}

/** What a client needs to find the exporter on a unix socket and to accept its driver classes. */
export function clientEnv(socketPath: string): Record<string, string> {
  return { JUMPSTARTER_HOST: socketPath, JMP_DRIVERS_ALLOW: "UNSAFE", PYTHONDONTWRITEBYTECODE: "1" };
}
