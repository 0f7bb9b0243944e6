import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { flasher } from "../storage/interface.ts";

/** An ST-LINK's disk: what is copied there is programmed into the microcontroller. */
export const stlinkMsd = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_stlink_msd.client.StlinkMsdFlasherClient",
  methods: {
    ...flasher.methods,
    info: unary({
      args: [],
      result: z.record(z.string(), z.string()),
      help: "What DETAILS.TXT says, and where the volume is mounted",
    }),
  },
});
