import { defineDriver } from "../../agent/driver/driver.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { virtualPower } from "../power/interface.ts";
import { deviceOf, partConfig } from "./device.ts";

export default defineDriver({
  types: ["jumpstarter_driver_corellium.driver.CorelliumPower"],
  summary: "Power switch of a Corellium device.",
  implements: virtualPower,
  config: partConfig,
  open(context) {
    const device = deviceOf(context);
    return {
      methods: {
        on: ({ signal }) => device.on(signal),
        off: ({ signal }, destroy) => device.off(destroy, signal),
        read: unsupported("Corellium has no meter"),
      },
    };
  },
});
