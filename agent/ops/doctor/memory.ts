import { attribute } from "../../sys/sysfs.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";
import type { HostRoots } from "./host.ts";

/** An agent with two exporters and a flash under way takes less than the first; below the second the kernel soon kills somebody. */
const scarceMiB = 128;
const tooLittleMiB = 32;

/** Memory that programs could have now. */
export async function checkMemory({ proc }: Pick<HostRoots, "proc">): Promise<DoctorFinding[]> {
  const { ok, warning, problem } = findingsOf("memory");
  const info = (await attribute(proc, "meminfo")) ?? "";
  const [total, available] = ["MemTotal", "MemAvailable"].map((key) => {
    const kib = new RegExp(`^${key}:\\s+(\\d+) kB`, "m").exec(info)?.[1];
    return kib === undefined ? undefined : Math.floor(Number(kib) / 1024);
  });
  if (total === undefined || available === undefined) return [];
  const told = `${available} MiB of ${total} MiB are available`;
  const hint = "stop other programs, or give the machine more memory";
  if (available < tooLittleMiB) return [problem(told, hint)];
  return [available < scarceMiB ? warning(told, hint) : ok(told)];
}
