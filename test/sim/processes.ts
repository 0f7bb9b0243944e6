import { readFileSync } from "node:fs";

/** Whether a process runs. One that has ended but that nobody has asked about yet, as in containers without an init, does not. */
export function isAlive(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/stat`, "latin1");
    return status.slice(status.lastIndexOf(")") + 2, status.lastIndexOf(")") + 3) !== "Z";
  } catch {
    return false;
  }
}
