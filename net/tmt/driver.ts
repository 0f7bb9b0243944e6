import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { tmt } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_tmt.driver.TMT"],
  summary: "Tells tmt on the client's machine how to reach and reboot the board behind `ssh`.",
  implements: tmt,
  config: z.strictObject({
    reboot_cmd: z.string().default("").describe("for tmt; empty: its own way"),
    default_username: z.string().default("").describe("whom tmt logs in as if clients do not say"),
    default_password: z.string().default("").describe("goes to the clients"),
  }),
  requires: { ssh: "'ssh' child is required via ref, or directly as a TcpNetwork driver instance" },
  open: ({ config }) => ({
    methods: {
      get_reboot_cmd: () => config.reboot_cmd,
      get_default_user_pass: () => [config.default_username, config.default_password] as const,
    },
  }),
});
