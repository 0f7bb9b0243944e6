import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { power } from "../power/interface.ts";

/** A relay that can be asked how it stands. */
export const noyitoRelay = defineInterface({
  driverType: "power",
  client: "jumpstarter_driver_noyito_relay.client.NoyitoPowerClient",
  methods: {
    ...power.methods,
    status: unary({ args: [], result: z.enum(["on", "off", "partial"]), help: "Query relay channel state" }),
  },
});
