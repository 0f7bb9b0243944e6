import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { sshMount } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_ssh_mount.driver.SSHMount"],
  summary: "Lets clients mount the board's file system with sshfs.",
  implements: sshMount,
  config: z.strictObject({}),
  requires: { ssh: "'ssh' child is required via ref to an SSHWrapper driver instance" },
  open: () => ({ methods: {} }),
});
