import { AgentError } from "../../../driver/errors.ts";
import { digitalInput, digitalOutput } from "../../../../boards/gpio/interface.ts";
import { command, type Commands, type Run } from "../command.ts";
import { commands as powerCommands } from "./power.ts";

const stateOf = (level: number) => (level === 1 ? "active" : "inactive");
const output = ({ node, signal }: Run) => node.as(digitalOutput, { signal });
const input = ({ node, signal }: Run) => node.as(digitalInput, { signal });
const timeout = { kind: "number", short: "t", default: 3_600, help: "Timeout in seconds" } as const;

/** A line that is driven can do what a power switch can, but has no meter. */
export const outputCommands: Commands = {
  ...powerCommands,
  on: command({ help: "Turn gpio on", run: async (run) => void (await output(run).on()) }),
  off: command({ help: "Turn gpio off", run: async (run) => void (await output(run).off()) }),
  read: command({ help: "Read pin", run: async (run) => run.print(stateOf(await output(run).read_pin())) }),
};

export const inputCommands: Commands = {
  read: command({ help: "Read input", run: async (run) => run.print(stateOf(await input(run).read_pin())) }),
  "wait-for-edge": command({
    help: "Wait for edge",
    args: { edgeType: { help: "rising or falling" } },
    options: { timeout },
    run: async (run, { edgeType, timeout }) => {
      if (edgeType !== "rising" && edgeType !== "falling") {
        throw new AgentError("E_USAGE", `EDGE_TYPE: '${edgeType}' is not one of rising, falling`);
      }
      await input(run).wait_for_edge(edgeType, timeout);
    },
  }),
  "wait-for-active": command({
    help: "Wait for active",
    options: { timeout },
    run: async (run, { timeout }) => void (await input(run).wait_for_active(timeout)),
  }),
  "wait-for-inactive": command({
    help: "Wait for inactive",
    options: { timeout },
    run: async (run, { timeout }) => void (await input(run).wait_for_inactive(timeout)),
  }),
  watch: command({
    help: "Show the level, then every edge with its time",
    run: async (run) => {
      for await (const { level, edge, time_s, missed } of input(run).watch()) {
        const when = new Date(time_s * 1_000).toISOString();
        run.print(`${when} ${edge ?? "now"} ${stateOf(level)}${missed === 0 ? "" : ` (${missed} edges missed)`}`);
      }
    },
  }),
};
