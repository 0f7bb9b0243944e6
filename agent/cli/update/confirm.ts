import { confirmTrial } from "../../../appliance/update/confirm.ts";
import { interruptible } from "../bundle/interruptible.ts";
import { defineCommand } from "../command.ts";
import { readSeconds, restartHost, thisHost } from "./host.ts";

const limitS = 600;
const settleS = 30;

export const confirm = defineCommand({
  name: "update confirm",
  summary: "End the trial of the system that runs: it stays from now on.",
  options: {
    wait: {
      type: "boolean",
      help: "confirm it only when the exporters are back; after the limit the old system is started",
    },
    limit: { type: "string", value: "SECONDS", help: `how long that may take (${limitS})` },
    settle: {
      type: "string",
      value: "SECONDS",
      help: `how long all must be well, without a new start of an agent (${settleS})`,
    },
    "no-reboot": { type: "boolean", help: "after the limit, leave the new start of the host to somebody else" },
  },
  notes: `
All is well when each exporter that ran before the update runs, is registered with its controller if it was, has no driver offline that
was not, and the state directory can be written. Without --wait none of it matters: whoever says so has looked.

Exit code 3 if the trial has failed.`,

  async run(options) {
    const host = await thisHost();
    return await interruptible(async (signal) => {
      const ended = await confirmTrial(
        {
          wait: options.wait === true,
          limitMs: readSeconds("limit", options.limit ?? String(limitS)) * 1_000,
          settleMs: readSeconds("settle", options.settle ?? String(settleS)) * 1_000,
          signal,
        },
        host,
      );
      if (ended.outcome !== "rolled back") {
        process.stdout.write(`${ended.outcome}\n`);
        return 0;
      }
      process.stderr.write(`the trial has failed: ${ended.reason}\n`);
      if (!options["no-reboot"]) await restartHost(signal);
      return 3;
    });
  },
});
