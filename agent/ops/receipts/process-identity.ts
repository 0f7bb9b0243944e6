import { readFile } from "node:fs/promises";

/** A process of this host that no later one is taken for. */
export interface ProcessIdentity {
  readonly pid: number;
  /** When it began, in clock ticks since the boot: numbers of processes are used again. */
  readonly startTicks: string;
  readonly bootId: string;
}

export async function identityOf(pid: number): Promise<ProcessIdentity> {
  const [stat, bootId] = await Promise.all([
    readFile(`/proc/${pid}/stat`, "utf8"),
    readFile("/proc/sys/kernel/random/boot_id", "utf8"),
  ]);
  // The name in parentheses may hold anything; field 22 of proc_pid_stat(5) is the 20th after it.
  const startTicks = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  return { pid, startTicks, bootId: bootId.trim() };
}

export async function isAlive({ pid, startTicks, bootId }: ProcessIdentity): Promise<boolean> {
  const now = await identityOf(pid).catch(() => undefined);
  return now?.startTicks === startTicks && now.bootId === bootId;
}
