import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

/** What tmt on the client's machine needs to run tests on the board behind the child `ssh`. */
export const tmt = defineInterface({
  driverType: "testing",
  client: "jumpstarter_driver_tmt.client.TMTClient",
  methods: {
    get_reboot_cmd: unary({ args: [], result: z.string(), help: "How tmt is to reboot the board; empty: its own way" }),
    get_default_user_pass: unary({
      args: [],
      result: z.tuple([z.string(), z.string()]),
      help: "User name and password for the board",
    }),
  },
});
