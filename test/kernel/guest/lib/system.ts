import { execFile } from "node:child_process";
import { promisify } from "node:util";

const execute = promisify(execFile);

/** Loads a module of the kernel and what it needs, unless it is there. Rejects with what modprobe says. */
export async function modprobe(name: string, ...parameters: string[]): Promise<void> {
  await exec("modprobe", name, ...parameters);
}

/** Runs a program to its end. @returns what it printed. Rejects, with that in the message, when it fails. */
export async function exec(program: string, ...args: string[]): Promise<string> {
  try {
    return (await execute(program, args)).stdout;
  } catch (error) {
    const { message, stdout = "", stderr = "" } = error as Error & { stdout?: string; stderr?: string };
    throw new Error(`${message}\n${stdout}${stderr}`, { cause: error });
  }
}
