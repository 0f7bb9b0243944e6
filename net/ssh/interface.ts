import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

/** What `ssh` on the client's machine needs to reach the board through the child `tcp`. */
export const sshWrapper = defineInterface({
  driverType: "network",
  client: "jumpstarter_driver_ssh.client.SSHWrapperClient",
  methods: {
    get_default_username: unary({ args: [], result: z.string(), help: "Whom to log in as; empty: ssh decides" }),
    get_ssh_command: unary({ args: [], result: z.string(), help: "Program and options, for a shell to split" }),
    get_ssh_identity: unary({ args: [], result: z.string().nullable(), help: "The private key, if there is one" }),
  },
});

/** A board's file system, mounted by sshfs on the client's machine through the child `ssh`. */
export const sshMount = defineInterface({
  driverType: "network",
  client: "jumpstarter_driver_ssh_mount.client.SSHMountClient",
  methods: {},
});
