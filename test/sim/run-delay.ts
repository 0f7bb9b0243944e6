import { readdirSync, readFileSync } from "node:fs";

/**
 * A stopwatch for what this process does on a machine that has other work, too. It leaves out how long the main thread, and that one of its
 * helpers that had to wait most, were ready to run and had no processor (Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat").
 * @returns milliseconds since the call; a little less than 0 where both have waited at once
 */
export function ownTime(): () => number {
  const [startMs, before] = [performance.now(), runDelays()];
  return () => {
    const waited = [...runDelays()].map(([thread, ms]) => [thread, ms - (before.get(thread) ?? 0)] as const);
    const helpersMs = Math.max(0, ...waited.map(([thread, ms]) => (thread === mainThread ? 0 : ms)));
    const mainMs = waited.find(([thread]) => thread === mainThread)?.[1] ?? 0;
    return performance.now() - startMs - mainMs - helpersMs;
  };
}

const mainThread = String(process.pid);

/** How long each thread has waited for a processor since it began; empty where the kernel does not count. */
function runDelays(): Map<string, number> {
  const delays = new Map<string, number>();
  for (const thread of readdirSync("/proc/self/task")) {
    try {
      delays.set(thread, Number(readFileSync(`/proc/self/task/${thread}/schedstat`, "utf8").split(" ")[1]) / 1e6);
    } catch {
      // The thread has ended, or nobody counts.
    }
  }
  return delays;
}
