import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { cuttlefishConfig, CuttlefishDevice } from "./device.ts";
import { cuttlefishPower } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_cuttlefish.driver.CvdPower"],
  summary: "Power switch of a Cuttlefish device, which brings it along.",
  implements: cuttlefishPower,
  config: cuttlefishConfig.extend({ device: z.string() }),
  open({ config: { device: path, ...config }, ...context }) {
    const device = context.shared(`cuttlefish ${path}`, () => new CuttlefishDevice(config));
    return {
      methods: {
        on: ({ signal }) => device.on(signal),
        off: ({ signal }, destroys) => device.off(destroys, signal),
        read: unsupported("Cuttlefish has no meter"),
      },
    };
  },
});
