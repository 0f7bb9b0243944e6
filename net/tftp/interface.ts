import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

/** A TFTP server whose files are put there through its child `storage`. */
export const tftp = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_tftp.client.TftpServerClient",
  methods: {
    start: unary({ args: [], result: z.null(), help: "Start the TFTP server" }),
    stop: unary({ args: [], result: z.null(), help: "Stop the TFTP server" }),
    get_host: unary({ args: [], result: z.string(), help: "Address under which boards reach the server" }),
    get_port: unary({ args: [], result: z.number(), help: "UDP port of the server" }),
  },
});
