import { toAgentError } from "../driver/errors.ts";
import { statusAnswer, type AgentAnswer } from "../host/control-client.ts";
import { defineCommand, table } from "./command.ts";
import { askRunning, runningAgentOptions } from "./running-agents.ts";

export const status = defineCommand({
  name: "status",
  summary: "Show what the exporters of running agents do: their leases, their controller, drivers that are offline.",
  options: {
    ...runningAgentOptions,
    json: { type: "boolean", help: "as JSON: one array with an object for each exporter" },
  },
  notes: `
Asks every agent that this user runs and that serves a controller.

Exit code 1 if an exporter cannot reach its controller, an agent does not answer, or none runs.`,

  async run({ pid, json }) {
    const agents = (await askRunning("status", {}, pid)).map(read);
    const exporters = agents.flatMap(({ exporters }) => exporters);
    if (json === true) process.stdout.write(`${JSON.stringify(exporters, undefined, 2)}\n`);
    else {
      const width = Math.max(0, ...exporters.map(({ exporter }) => exporter.length));
      const rows = exporters.flatMap(({ exporter, state, online, lease, client, offline }) => {
        const who = lease === null ? "" : `, lease ${lease}${client === null ? "" : ` of ${client}`}`;
        const reach = online ? "" : ", the controller does not answer";
        const missing = offline.map(({ driver, reason }) => ["", `  ${driver} is offline: ${reason}`] as const);
        return [[exporter, `${state}${who}${reach}`] as const, ...missing];
      });
      if (rows.length > 0) process.stdout.write(`${table(rows, width)}\n`);
    }
    const silent = agents.flatMap(({ problem }) => (problem === undefined ? [] : [problem]));
    for (const problem of silent) process.stderr.write(`${problem}\n`);
    return silent.length === 0 && exporters.every(({ online }) => online) ? 0 : 1;
  },
});

function read({ pid, answer, error }: AgentAnswer) {
  try {
    if (error !== undefined) throw error;
    return { exporters: statusAnswer.parse(answer).map((exporter) => ({ pid, ...exporter })), problem: undefined };
  } catch (thrown) {
    return { exporters: [], problem: `agent ${pid}: ${toAgentError(thrown).message}` };
  }
}
