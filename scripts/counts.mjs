// A node:test reporter that writes the runner's own closing counts as one JSON line, with what failed and why.
import { relative } from "node:path";
import { inspect } from "node:util";

const longestChars = 3_000;

export default async function* counts(source) {
  const total = {};
  const failures = [];
  for await (const { type, data } of source) {
    if (type === "test:fail" && data.details.error.failureType !== "subtestsFailed") {
      const { cause, message } = data.details.error;
      const why = (cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause ?? message)).trim();
      failures.push(`${relative("", data.file ?? "")}:${data.line ?? "?"} ${data.name}\n${why.slice(0, longestChars)}`);
    }
    if (type !== "test:diagnostic") continue;
    const match = /^(pass|fail|cancelled|skipped|todo) (\d+)$/.exec(data.message);
    if (match) total[match[1]] = Number(match[2]);
  }
  yield JSON.stringify({ ...total, failures }) + "\n";
}
