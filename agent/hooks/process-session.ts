import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** What /proc/PID/stat says of a process, as far as it matters here. */
export interface ProcessEntry {
  readonly pid: number;
  readonly group: number;
  readonly session: number;
  /** In clock ticks since boot; tells a process from a later one with the same id. */
  readonly startTime: string;
}

/** Undefined when it has ended, also when nobody has asked for its exit code yet. */
export function findProcess(pid: number): ProcessEntry | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The name stands in brackets and may hold anything; field 3 of proc_pid_stat(5) follows it.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state, , group, session] = fields;
  if (state === "Z" || state === "X") return undefined;
  return { pid, group: Number(group), session: Number(session), startTime: fields[19] ?? "" };
}

/**
 * The processes of a session, whatever group they are in: `timeout` and shells with job control make groups of their
 * own. A process that made itself a session has left for good.
 */
export function sessionMembers(session: number): ProcessEntry[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((name) => findProcess(Number(name)))
    .filter((entry) => entry?.session === session) as ProcessEntry[];
}

export interface KillOptions {
  /** Between SIGTERM and SIGKILL. */
  readonly graceMs: number;
  /** Ends early when the session's first process has; until then there is no need to look for others. */
  readonly leaderEnded?: Promise<void>;
}

const pollMs = 100;

/** How long the kernel may take to end what got SIGKILL; what hangs in a system call ends later. */
const dyingMs = 2_000;

/** SIGTERM, and SIGKILL for what is left after a while, to all processes of a session. */
export async function killSession(session: number, { graceMs, leaderEnded }: KillOptions): Promise<void> {
  signalSession(session, "SIGTERM");
  const graceEnd = performance.now() + graceMs;
  if (leaderEnded !== undefined) {
    const late = new AbortController();
    await Promise.race([leaderEnded, sleep(graceMs, undefined, { signal: late.signal }).catch(() => {})]);
    late.abort();
  }
  if (await goneBy(session, graceEnd)) return;
  // Again and again, as a group that is made meanwhile gets away from the signal.
  await goneBy(session, performance.now() + dyingMs, () => signalSession(session, "SIGKILL"));
}

async function goneBy(session: number, end: number, urge = () => {}): Promise<boolean> {
  while (sessionMembers(session).length > 0) {
    if (performance.now() >= end) return false;
    urge();
    await sleep(pollMs);
  }
  return true;
}

function signalSession(session: number, signal: NodeJS.Signals): void {
  // The first process's own group has the session's number. All of it at once, so that nobody in it gets away by forking.
  const groups = new Set([session, ...sessionMembers(session).map(({ group }) => group)]);
  for (const group of groups) {
    try {
      process.kill(-group, signal);
    } catch {
      // Ended meanwhile.
    }
  }
}
