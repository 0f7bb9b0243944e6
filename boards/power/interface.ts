import * as z from "zod";
import { defineInterface, streaming, unary } from "../../agent/driver/interface.ts";

/** What a meter shows, in volts and amperes. */
const powerReading = z.object({ voltage: z.number(), current: z.number() });

const on = unary({ args: [], result: z.null(), help: "Power on the device" });
const read = streaming({ args: [], item: powerReading, help: "Read voltage and current" });

/** A power supply or relay. `cycle` is made of these by the client. */
export const power = defineInterface({
  driverType: "power",
  client: "jumpstarter_driver_power.client.PowerClient",
  methods: { on, off: unary({ args: [], result: z.null(), help: "Power off the device" }), read },
});

/** Power of a machine made of software: `off` can also destroy its state. */
export const virtualPower = defineInterface({
  driverType: "power",
  client: "jumpstarter_driver_power.client.VirtualPowerClient",
  methods: {
    on,
    off: unary({
      args: [z.boolean().default(false)],
      result: z.null(),
      help: "Power off the device; true also destroys its state",
    }),
    read,
  },
});
