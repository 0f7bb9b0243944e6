import { setTimeout as sleep } from "node:timers/promises";
import { power, virtualPower } from "../../../../boards/power/interface.ts";
import { command, type Commands, type Run } from "../command.ts";

const calls = ({ node, signal }: Run) => node.as(power, { signal });

export const commands: Commands = {
  on: command({ help: "Power on", run: async (run) => void (await calls(run).on()) }),
  off: command({ help: "Power off", run: async (run) => void (await calls(run).off()) }),
  cycle: command({
    help: "Power cycle",
    options: {
      wait: { kind: "number", short: "w", default: 2, help: "Wait time in seconds between off and on" },
    },
    run: async (run, { wait }) => {
      run.print(`Power cycling with ${wait} seconds wait time...`);
      await calls(run).off();
      await sleep(wait * 1000, undefined, { signal: run.signal });
      await calls(run).on();
    },
  }),
  read: command({
    help: "Read power measurements",
    options: {
      count: { kind: "integer", short: "n", default: 1, help: "Number of readings (0 = infinite)" },
      interval: { kind: "number", short: "i", default: 1, help: "Seconds between readings" },
    },
    run: async (run, { count, interval }) => {
      for (let done = 1; ; done += 1) {
        for await (const { voltage, current } of calls(run).read()) {
          run.print(`voltage=${voltage} V  current=${current} A  apparent_power=${voltage * current} VA`);
        }
        if (count !== 0 && done >= count) return;
        await sleep(interval * 1000, undefined, { signal: run.signal });
      }
    },
  }),
  rescue: command({
    help: "Start the board in its rescue mode, where the hardware can",
    run: async ({ node, signal }) => void (await node.call("rescue", [], { signal })),
  }),
};

/** Power of a virtual machine. */
export const virtualCommands: Commands = {
  ...commands,
  off: command({
    help: "Power off",
    options: { destroy: { kind: "flag", help: "destroy the instance after powering it off" } },
    run: async ({ node, signal }, { destroy }) => void (await node.as(virtualPower, { signal }).off(destroy)),
  }),
};
