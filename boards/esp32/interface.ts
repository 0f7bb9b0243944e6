import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { serialPort } from "../serial/interface.ts";
import { flasher } from "../storage/interface.ts";

const nothing = z.null();

/** An Espressif chip behind a serial port. `flash` and `dump` take an address, `dump` also `address:size`. */
export const esp32 = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_esp32.client.Esp32FlasherClient",
  methods: {
    ...flasher.methods,
    get_chip_info: unary({
      args: [],
      result: z.object({ chip: z.string(), features: z.string(), mac: z.string() }),
      help: "Chip, features and MAC address",
    }),
    erase: unary({ args: [], result: nothing, help: "Erase the entire flash" }),
    hard_reset: unary({ args: [], result: nothing, help: "Reset the chip by its lines" }),
    enter_bootloader: unary({ args: [], result: nothing, help: "Bring the chip into download mode by its lines" }),
  },
});

/** What is asked of the serial port: where it is, and how fast. */
export const port = defineInterface({ ...serialPort, methods: { status: serialPort.methods.status } });
