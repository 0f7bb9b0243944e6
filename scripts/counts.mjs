// A node:test reporter that writes the runner's own closing counts as one JSON line, with what failed and why, and how
// long everything took.
import { readFileSync } from "node:fs";
import { relative, resolve } from "node:path";
import { inspect } from "node:util";

const longestChars = 3_000;

export default async function* counts(source) {
  const total = {};
  const failures = [];
  const files = [];
  for await (const { type, data } of source) {
    if (type === "test:fail" && data.details.error.failureType !== "subtestsFailed") {
      const { cause, message } = data.details.error;
      const why = (cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause ?? message)).trim();
      failures.push(`${relative("", data.file ?? "")}:${data.line ?? "?"} ${data.name}\n${why.slice(0, longestChars)}`);
    }
    if (type === "test:complete" && data.nesting === 0 && data.file !== undefined) {
      const [file, ms] = [relative("", data.file), data.details.duration_ms];
      // A file is a test, too, whose name is its path.
      if (resolve(data.name) === data.file) files.push({ name: file, ms });
      // All that runs in the virtual machine is one file of ours.
      else if (file.startsWith("test/kernel/")) files.push({ name: `${file} ${data.name}`, ms });
    }
    if (type !== "test:diagnostic") continue;
    const match = /^(pass|fail|cancelled|skipped|todo) (\d+)$/.exec(data.message);
    if (match) total[match[1]] = Number(match[2]);
  }
  yield JSON.stringify({ ...total, failures, files, cpuS: cpuSeconds() }) + "\n";
}

/** What this process and all that it has waited for have had of processors (proc(5), /proc/pid/stat: utime to cstime). */
function cpuSeconds() {
  const ticksPerSecond = 100;
  const fields = readFileSync("/proc/self/stat", "utf8")
    .replace(/^.*\) /s, "")
    .split(" ");
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / ticksPerSecond;
}
