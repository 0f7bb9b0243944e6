import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

const execute = promisify(execFile);

/** Loads a module of the kernel and what it needs, unless it is there. Rejects with what modprobe says. */
export async function modprobe(name: string, ...parameters: string[]): Promise<void> {
  await exec("modprobe", name, ...parameters);
}

/** The same for one that is to begin anew, whoever has loaded it before. */
export async function modprobeAnew(name: string, ...parameters: string[]): Promise<void> {
  await exec("modprobe", "-r", name);
  await modprobe(name, ...parameters);
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

/**
 * Looks again and again until it holds: for what the kernel tells nobody of.
 * @returns what `look` found. Rejects after `limitMs`, with the last error of `look` if there was one.
 */
export async function waitFor<Found>(
  what: string,
  look: () => Found | Promise<Found>,
  limitMs = 60_000,
): Promise<Exclude<Found, undefined | null | false>> {
  let cause: unknown;
  for (const began = performance.now(); ; await sleep(20)) {
    try {
      const found = await look();
      if (found !== undefined && found !== null && found !== false) {
        return found as Exclude<Found, undefined | null | false>;
      }
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() - began > limitMs) throw new Error(`not within ${limitMs / 1000} s: ${what}`, { cause });
  }
}
