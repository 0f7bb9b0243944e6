import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

/** The U-Boot console of a board; reset, commands and DHCP are done by the client over `power` and `serial`. */
export const ubootConsole = defineInterface({
  driverType: "console",
  client: "jumpstarter_driver_uboot.client.UbootConsoleClient",
  methods: {
    get_prompt: unary({ args: [], result: z.string(), help: "The prompt that U-Boot shows on this board" }),
  },
});
