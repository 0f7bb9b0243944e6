import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

/** An Android emulator; its power switch and its ADB server are its children. */
export const androidEmulator = defineInterface({
  driverType: "composite",
  client: "jumpstarter_driver_androidemulator.client.AndroidEmulatorClient",
  methods: {
    set_headless: unary({
      args: [z.boolean()],
      result: z.null(),
      help: "Whether the emulator has a window, from its next start on",
    }),
  },
});
