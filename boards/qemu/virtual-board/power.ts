import { defineDriver } from "../../../agent/driver/driver.ts";
import { power } from "../../power/interface.ts";
import { partConfig, virtualMachineOf } from "./parts.ts";

export default defineDriver({
  types: ["jumpstarter_agent.VirtualBoardPower"],
  summary: "Power switch of a VirtualBoard.",
  implements: power,
  config: partConfig,
  open: (context) => {
    const machine = virtualMachineOf(context);
    return {
      methods: {
        on: async () => {
          await machine.on();
          context.log.info("power on");
        },
        off: async () => {
          await machine.off();
          context.log.info("power off");
        },
        // There is no meter: the supply's nominal voltage while it is on.
        async *read() {
          yield { voltage: machine.isOn ? 5 : 0, current: 0 };
        },
      },
    };
  },
});
