import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

/** A VNC server behind the child `tcp`; the client's browser shows its screen. */
export const vnc = defineInterface({
  driverType: "composite",
  client: "jumpstarter_driver_vnc.client.VNClient",
  methods: {
    get_default_encrypt: unary({
      args: [],
      result: z.boolean(),
      help: "Whether browsers connect with TLS if nothing else is said",
    }),
  },
});
