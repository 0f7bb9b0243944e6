import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { ubootConsole } from "./interface.ts";

const missing = (child: string) => `UbootConsole: ${child} driver not configured as a child`;

export default defineDriver({
  types: ["jumpstarter_driver_uboot.driver.UbootConsole"],
  summary: "U-Boot's prompt on a board's serial console.",
  implements: ubootConsole,
  config: z.strictObject({
    prompt: z.string().default("\n=>").describe("U-Boot's prompt; a leading newline keeps it from matching in output"),
  }),
  requires: { power: missing("power"), serial: missing("serial") },
  open: ({ config }) => ({ methods: { get_prompt: () => config.prompt } }),
});
