import { rollBack } from "../../../appliance/update/apply.ts";
import { interruptible } from "../bundle/interruptible.ts";
import { defineCommand } from "../command.ts";
import { leaseRule, restartHost, restartOptions, thisHost } from "./host.ts";

export const rollback = defineCommand({
  name: "update rollback",
  summary: "Go back to the other system, the one before the last update, on trial.",
  options: restartOptions,
  notes: `
It is tried and confirmed as an update is; if it does not work any more, the system that runs now comes back.`,

  async run(options) {
    const leases = leaseRule(options);
    const host = await thisHost();
    return await interruptible(async (signal) => {
      const { to } = await rollBack({ leases, signal }, host);
      process.stdout.write(`the next start tries version ${to?.version} in slot ${to?.slot}\n`);
      if (!options["no-reboot"]) await restartHost(signal);
      return 0;
    });
  },
});
