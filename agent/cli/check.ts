import type { PlacedProblem } from "../config/document.ts";
import { describePath, describeProblem, inspectConfig } from "../config/load.ts";
import { shippedDrivers } from "../driver/catalog.ts";
import { toAgentError } from "../driver/errors.ts";
import { defineCommand } from "./command.ts";
import { judgeSideCars, type SideCarVerdict } from "./side-cars.ts";

/** What `--json` prints for one file. `line` and `column` count from 1; a file that cannot be read has neither. */
interface Verdict {
  readonly file: string;
  readonly ok: boolean;
  readonly problems: readonly Remark[];
  readonly warnings: readonly Remark[];
  /** Drivers that Python runs. One that cannot be had is a warning: it will be offline, the others work. */
  readonly sideCars: readonly SideCarVerdict[];
}

interface Remark {
  readonly line?: number;
  readonly column?: number;
  /** `export.power.config.port`; empty for the whole file. */
  readonly path: string;
  readonly message: string;
}

export const check = defineCommand({
  name: "check",
  summary: "Check exporter configurations: keys, driver types, their configs and refs. Touches no hardware.",
  words: { usage: "FILE...", least: 1, most: Infinity },
  options: {
    json: { type: "boolean", help: "print one JSON array with the verdict on each file" },
  },
  notes: `
Prints a line FILE:LINE:COLUMN: PATH: MESSAGE for each problem, and one FILE: PATH: MESSAGE for each driver that Python
runs; its class is imported, nothing is made of it. Exit code 1 if there is any; warnings do not count.`,

  async run({ json }, files) {
    const verdicts: Verdict[] = [];
    for (const file of files) {
      const lines: string[] = [];
      verdicts.push(await judge(file, lines));
      if (!json) process.stdout.write(lines.join("\n") + "\n");
    }
    if (json) process.stdout.write(JSON.stringify(verdicts, undefined, 2) + "\n");
    return verdicts.every(({ ok }) => ok) ? 0 : 1;
  },
});

async function judge(file: string, lines: string[]): Promise<Verdict> {
  try {
    const { problems, warnings, planned } = await inspectConfig(file, { catalog: shippedDrivers });
    lines.push(...problems.map((problem) => describeProblem(file, problem)));
    lines.push(...warnings.map((warning) => describeProblem(file, warning, "warning: ")));
    const sideCars = planned === undefined ? [] : await judgeSideCars(planned);
    for (const { path, ok, text } of sideCars) lines.push(`${file}: ${ok ? "" : "warning: "}${path}: ${text}`);
    const ok = problems.length === 0;
    if (ok) lines.push(`${file}: ok`);
    return { file, ok, problems: problems.map(remark), warnings: warnings.map(remark), sideCars };
  } catch (thrown) {
    const { message } = toAgentError(thrown);
    lines.push(`${file}: ${message}`);
    return { file, ok: false, problems: [{ path: "", message }], warnings: [], sideCars: [] };
  }
}

function remark({ position, path, message }: PlacedProblem): Remark {
  return { ...position, path: describePath(path), message };
}
