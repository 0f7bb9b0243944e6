import * as z from "zod";
import { byteStream, defineInterface, unary } from "../../agent/driver/interface.ts";

const client = "jumpstarter_driver_pyserial.client.PySerialClient";
const connect = byteStream({
  halfCloses: false,
  help: "Reads and writes the console; several clients may at the same time",
});

/** A serial console: what boot loaders and flashers talk to. */
export const serialConsole = defineInterface({ driverType: "serial", client, methods: { connect } });

/** A serial port with its modem lines. */
export const serialPort = defineInterface({
  driverType: "serial",
  client,
  methods: {
    connect,
    close: unary({ args: [], result: z.null(), help: "Lets go of the port; open streams end" }),
    set_dtr: unary({ args: [z.boolean()], result: z.null(), help: "Sets the DTR line" }),
    set_rts: unary({ args: [z.boolean()], result: z.null(), help: "Sets the RTS line" }),
  },
});
