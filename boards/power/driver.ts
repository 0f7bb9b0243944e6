import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { power } from "./interface.ts";

/** A power switch without a board, for trying things out: what it does shows in the exporter's log. */
export default defineDriver({
  types: [
    "jumpstarter_driver_power.driver.MockPower",
    "jumpstarter_driver_power.driver.SyncMockPower",
    "jumpstarter.drivers.power.driver.MockPower",
  ],
  summary: "Power without hardware: logs what it is asked for.",
  implements: power,
  // Unknown keys are ignored, as the mocks of the Python exporter do.
  config: z.looseObject({}),
  open: ({ log }) => ({
    methods: {
      on: () => log.info("power on"),
      off: () => log.info("power off"),
      async *read() {
        yield { voltage: 0, current: 0 };
        yield { voltage: 5, current: 2 };
      },
    },
  }),
});
