import { defineDriver } from "../../agent/driver/driver.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { power } from "../power/interface.ts";
import { machineOf, partConfig } from "./parts.ts";

export default defineDriver({
  types: ["jumpstarter_driver_qemu.driver.QemuPower"],
  summary: "Power switch of a Qemu.",
  implements: power,
  config: partConfig,
  open(context) {
    const machine = machineOf(context, context.config);
    return {
      methods: {
        on: async ({ signal }) => {
          await machine.on(signal);
          context.log.info("power on");
        },
        off: async () => {
          await machine.off();
          context.log.info("power off");
        },
        read: unsupported("a virtual machine has no meter"),
      },
    };
  },
});
