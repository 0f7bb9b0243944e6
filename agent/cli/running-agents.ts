import { AgentError } from "../driver/errors.ts";
import { askAgents, type AgentAnswer } from "../host/control-client.ts";
import type { ControlRequests } from "../host/control-protocol.ts";
import type { Options } from "./command.ts";

export const runningAgentOptions = {
  pid: { type: "string", value: "PID", help: "only the agent with this process number" },
} as const satisfies Options;

/**
 * Asks the agents that this user runs, or the one with this process number.
 * @throws AgentError E_USAGE for what is no process number, E_IO where nobody runs
 */
export async function askRunning<K extends keyof ControlRequests>(
  request: K,
  params: ControlRequests[K],
  pid: string | undefined,
): Promise<AgentAnswer[]> {
  if (pid !== undefined && !/^[1-9]\d{0,9}$/.test(pid)) {
    throw new AgentError("E_USAGE", `--pid must be a process number, not ${pid}`);
  }
  const answers = await askAgents(request, params, { pid: pid === undefined ? undefined : Number(pid) });
  if (answers.length > 0) return answers;
  throw new AgentError("E_IO", `no agent runs${pid === undefined ? "" : ` with the process number ${pid}`}`, {
    hint: "agents of other users are not asked; run this as the user of the agent",
  });
}
