import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { power } from "../power/interface.ts";

/** An outlet behind an SNMP agent. */
export const snmpServer = defineInterface({
  driverType: "power",
  client: "jumpstarter_driver_snmp.client.SNMPServerClient",
  methods: {
    on: unary({ args: [], result: z.string(), help: "Power on the device" }),
    off: unary({ args: [], result: z.string(), help: "Power off the device" }),
    read: power.methods.read,
  },
});
