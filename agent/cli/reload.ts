import { AgentError, toAgentError } from "../driver/errors.ts";
import { reloadAnswer, type AgentAnswer } from "../host/control-client.ts";
import type { ReloadReport } from "../host/reload-report.ts";
import { askRunning, runningAgentOptions } from "./running-agents.ts";
import { defineCommand } from "./command.ts";

const verdicts: Record<ReloadReport["outcome"], string> = {
  unchanged: "nothing has changed",
  reloaded: "changed now",
  "at-lease-end": "changes when its lease ends",
  refused: "refused, nothing is changed",
  started: "started",
  stopped: "stops, at the end of its lease if it has one",
};

export const reload = defineCommand({
  name: "reload",
  summary: "Let running agents take over changed exporter configurations.",
  options: {
    exporter: { type: "string", value: "NAME", help: "only the exporter of this name" },
    ...runningAgentOptions,
  },
  notes: `
Asks every agent that this user runs. An exporter that is leased changes when its lease ends; only drivers whose
configuration differs are closed and opened again. A configuration with problems changes nothing.

Exit code 1 if anything was refused, or no agent runs.`,

  async run({ exporter, pid }) {
    const answers = await askRunning("reload", exporter === undefined ? {} : { exporter }, pid);
    const told = answers.map(tell);
    process.stdout.write(told.map(({ lines }) => lines.map((line) => `${line}\n`).join("")).join(""));
    if (exporter !== undefined && told.every(({ exporters, ok }) => ok && exporters === 0)) {
      throw new AgentError("E_CONFIG", `no agent runs an exporter ${exporter}`);
    }
    return told.every(({ ok }) => ok) ? 0 : 1;
  },
});

/** What one agent has answered, for people. */
function tell(answer: AgentAnswer): { lines: string[]; exporters: number; ok: boolean } {
  const agent = `agent ${answer.pid}`;
  try {
    if (answer.error !== undefined) throw answer.error;
    const reports = reloadAnswer.parse(answer.answer);
    const lines = reports.flatMap(({ exporter, outcome, changes, problems }) => [
      `${agent}: ${exporter}: ${verdicts[outcome]}`,
      ...[...problems, ...changes].map((line) => `  ${line}`),
    ]);
    return { lines, exporters: reports.length, ok: reports.every(({ outcome }) => outcome !== "refused") };
  } catch (thrown) {
    return { lines: [`${agent}: ${toAgentError(thrown).message}`], exporters: 0, ok: false };
  }
}
