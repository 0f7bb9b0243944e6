import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { vnc } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_vnc.driver.Vnc"],
  summary: "Lets clients see the screen of the VNC server behind `tcp` in their browser.",
  implements: vnc,
  config: z.strictObject({
    default_encrypt: lax.boolean().prefault(false).describe("browsers connect with TLS if nothing else is said"),
  }),
  requires: { tcp: "A tcp child is required for Vnc" },
  open: ({ config }) => ({ methods: { get_default_encrypt: () => config.default_encrypt } }),
});
