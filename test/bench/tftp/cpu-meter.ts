import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Cleanup } from "./cleanup.ts";

/**
 * Counts the CPU time of a process and of all that it starts, by a control group of its own: tftpd-hpa forks for each
 * transfer and never waits for its children, so that their time is in no one's /proc/PID/stat.
 */
export interface CpuMeter {
  /** What has been used so far. */
  seconds(): number;
}

interface Hierarchy {
  /** Where it is mounted. */
  readonly directory: string;
  readonly file: string;
  readonly seconds: (text: string) => number;
}

const accounting: Record<string, Omit<Hierarchy, "directory">> = {
  // The second version counts the time of every group, also where no controller is enabled.
  cgroup2: { file: "cpu.stat", seconds: (text) => Number(/^usage_usec (\d+)/m.exec(text)?.[1]) / 1e6 },
  cgroup: { file: "cpuacct.usage", seconds: (text) => Number(text) / 1e9 },
};

function hierarchies(): Hierarchy[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .flatMap((line) => {
      const [, directory = "", type = "", options = ""] = line.split(" ");
      const kind = accounting[type];
      if (kind === undefined || (type === "cgroup" && !options.split(",").includes("cpuacct"))) return [];
      return [{ directory, ...kind }];
    });
}

let count = 0;

/** @returns undefined where no control group can be made */
export function meterCpu(life: Cleanup, pid: number): CpuMeter | undefined {
  for (const { directory, file, seconds } of hierarchies()) {
    const group = join(directory, `jmp-agent-bench-${process.pid}-${(count += 1)}`);
    try {
      mkdirSync(group);
    } catch {
      continue;
    }
    life.after(() => removed(group));
    writeFileSync(join(group, "cgroup.procs"), `${pid}`);
    return { seconds: () => seconds(readFileSync(join(group, file), "utf8")) };
  }
  return undefined;
}

/** Transfers that were broken off may live on for a moment. */
async function removed(group: string): Promise<void> {
  for (const pid of readFileSync(join(group, "cgroup.procs"), "utf8").split("\n")) {
    if (pid !== "") process.kill(Number(pid), "SIGKILL");
  }
  for (let tries = 0; tries < 100; tries += 1) {
    try {
      return rmdirSync(group);
    } catch {
      await sleep(20);
    }
  }
}
