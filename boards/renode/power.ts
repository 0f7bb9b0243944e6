import { defineDriver } from "../../agent/driver/driver.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { power } from "../power/interface.ts";
import { machineOf, partConfig } from "./config.ts";

export default defineDriver({
  types: ["jumpstarter_driver_renode.driver.RenodePower"],
  summary: "Power switch of a machine in Renode.",
  implements: power,
  config: partConfig,
  open(context) {
    const machine = machineOf(context, context.config.machine);
    return {
      methods: {
        on: ({ signal }) => machine.on(signal),
        off: ({ signal }) => machine.off(signal),
        read: unsupported("Renode has no meter"),
      },
    };
  },
});
