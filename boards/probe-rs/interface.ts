import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { resourceHandle } from "../../agent/driver/resource.ts";

const output = z.string();

// They become words of a command line.
const width = z.string().regex(/^b(8|16|32|64)$/, "must be b8, b16, b32 or b64");
const address = z.string().regex(/^(0x[0-9a-fA-F]{1,16}|\d{1,20})$/, "must be an address, such as 0x20000000");
const words = z.string().regex(/^[1-9]\d{0,8}$/, "must be a number of words");

/** A debug probe at a microcontroller, through the probe-rs program. What it prints is the answer. */
export const probeRs = defineInterface({
  driverType: "debug",
  client: "jumpstarter_driver_probe_rs.client.ProbeRsClient",
  methods: {
    info: unary({ args: [], result: output, help: "Get target information" }),
    reset_target: unary({ args: [], result: output, help: "Reset the target" }),
    erase: unary({ args: [], result: output, help: "Erase the target, this is a slow operation" }),
    download: unary({ args: [resourceHandle], result: output, help: "Download a file to the target" }),
    read: unary({
      args: [width, address, words],
      result: z.array(z.string()),
      help: "Words of memory, in hexadecimal digits: width (b8 to b64), address, count",
    }),
  },
});
