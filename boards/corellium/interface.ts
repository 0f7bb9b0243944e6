import * as z from "zod";
import { byteStream, defineInterface, unary } from "../../agent/driver/interface.ts";

/** A device in Corellium's cloud; its parts are children. */
export const corellium = defineInterface({
  driverType: "composite",
  client: "jumpstarter_driver_corellium.client.CorelliumClient",
  methods: {},
});

/** Its console, reached over a WebSocket and used like a serial port. */
export const corelliumConsole = defineInterface({
  driverType: "network",
  client: "jumpstarter_driver_pyserial.client.PySerialClient",
  methods: {
    connect: byteStream({ halfCloses: false, help: "Reads and writes the console" }),
    address: unary({ args: [], result: z.string(), help: "Where the console is; who has it can connect" }),
  },
});
