import { defineDriver } from "../../agent/driver/driver.ts";
import { deviceConfig } from "./device.ts";
import { corellium } from "./interface.ts";

const type = "jumpstarter_driver_corellium.driver.Corellium";

/** Brings along `power` and `serial` of one device. */
export default defineDriver({
  types: [type],
  summary: "A virtual device in Corellium's cloud: power and a console, through its REST API.",
  implements: corellium,
  config: deviceConfig,
  children: ({ config, path }) => ({
    power: { type: `${type}Power`, config: { ...config, device: path } },
    serial: { type: `${type}Console`, config: { ...config, device: path } },
  }),
  open: () => ({ methods: {} }),
});
