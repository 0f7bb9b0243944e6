import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { digitalOutput } from "../gpio/interface.ts";
import { serialPort } from "../serial/interface.ts";
import { flasher } from "../storage/interface.ts";

/** A board with a UF2 boot loader, as the Raspberry Pi Pico: what is copied to its disk is flashed. */
export const piPico = defineInterface({
  driverType: "storage",
  client: "jumpstarter_driver_pi_pico.client.PiPicoClient",
  methods: {
    ...flasher.methods,
    enter_bootloader: unary({
      args: [],
      result: z.null(),
      help: "Bring the board into BOOTSEL mode: by its pins, or by its serial port at 1200 baud",
    }),
    bootloader_info: unary({
      args: [],
      result: z.record(z.string(), z.string()),
      help: "What INFO_UF2.TXT of the BOOTSEL volume says",
    }),
  },
});

/** What is asked of the pins BOOTSEL and RUN: a relay will do. */
export const pin = defineInterface({
  ...digitalOutput,
  methods: { on: digitalOutput.methods.on, off: digitalOutput.methods.off },
});

/** What is asked of the serial port: where it is. */
export const port = defineInterface({ ...serialPort, methods: { status: serialPort.methods.status } });
