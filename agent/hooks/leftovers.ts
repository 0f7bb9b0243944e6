import { appendFileSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { launcherDirectory } from "./launcher.ts";
import { findProcess, killSession, sessionMembers } from "./process-session.ts";

/** One line for each hook of the lease: process id, its start time, and the boot in which both mean something. */
const fileName = "hook.pid";

const graceMs = 1_000;

/** Notes which process a hook is, for who cleans up after us. */
export function noteHook(directory: string, pid: number): void {
  const { startTime } = findProcess(pid) ?? { startTime: "0" };
  appendFileSync(join(directory, fileName), `${pid} ${startTime} ${bootId()}\n`, { mode: 0o600 });
}

/**
 * Ends what the hooks of a lease have left running: in the background, or because the agent was killed. Only for a
 * directory that belongs to this user and that nobody else can write to.
 */
export async function killLeftoverHooks(directory: string): Promise<void> {
  const noted = await readFile(join(directory, fileName), "latin1").catch(() => "");
  const boot = bootId();
  await Promise.all(
    noted.split("\n").map(async (line) => {
      const [, pid, startTime, itsBoot] = /^([1-9]\d{0,9}) (\d+) (\S+)$/.exec(line) ?? [];
      if (pid === undefined || startTime === undefined || itsBoot !== boot) return;
      if (isOurs(Number(pid), startTime, directory)) await killSession(Number(pid), { graceMs });
    }),
  );
}

/** Whether the session is still the hook's, and not that of a later process which got the same number. */
function isOurs(pid: number, startTime: string, directory: string): boolean {
  const leader = findProcess(pid);
  // While one process of a session lives, its number is not given to a new process.
  if (leader !== undefined) return leader.startTime === startTime && leader.session === pid;
  const launchers = launcherDirectory(directory);
  return sessionMembers(pid).some((member) => environmentOf(member.pid).includes(launchers));
}

function environmentOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return "";
  }
}

function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
