import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

const text = z.string();

/** A machine simulated by Renode; `power`, `flasher` and `console` are its children. */
export const renode = defineInterface({
  driverType: "composite",
  client: "jumpstarter_driver_renode.client.RenodeClient",
  methods: {
    get_platform: unary({ args: [], result: text, help: "The platform description" }),
    get_uart: unary({ args: [], result: text, help: "The UART that is the console" }),
    get_machine_name: unary({ args: [], result: text, help: "Name of the machine" }),
    monitor_cmd: unary({ args: [text], result: text, help: "Send a command to Renode's monitor" }),
  },
});
