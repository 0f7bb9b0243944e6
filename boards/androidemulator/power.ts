import { defineDriver } from "../../agent/driver/driver.ts";
import { power } from "../power/interface.ts";
import { emulatorOf, partConfig } from "./parts.ts";

export default defineDriver({
  types: ["jumpstarter_driver_androidemulator.driver.AndroidEmulatorPower"],
  summary: "Power switch of an AndroidEmulator, which brings it along.",
  implements: power,
  config: partConfig,
  open(context) {
    const emulator = emulatorOf(context, context.config.emulator);
    return {
      methods: {
        on: ({ signal }) => emulator.on(signal),
        off: () => emulator.off(),
        // There is no meter.
        async *read() {
          yield { voltage: 0, current: 0 };
        },
      },
    };
  },
});
