import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { addressedNetwork } from "../../net/sockets/interface.ts";

/** A device that listens on the network, as `adb connect` takes it: `HOST`, `HOST:PORT` or `[IPv6]:PORT`. */
const device = z
  .string()
  .regex(/^[\w.:%[\]-]{1,255}$/, "must be HOST or HOST:PORT")
  .describe("HOST or HOST:PORT");

const port = z.int();
const said = z.string();

/** An ADB server; clients bring their own `adb`, which speaks to it through `connect`. */
export const adb = defineInterface({
  driverType: "network",
  client: "jumpstarter_driver_adb.client.AdbClient",
  methods: {
    ...addressedNetwork.methods,
    start_server: unary({ args: [], result: port, help: "Start the ADB server, and show its port" }),
    kill_server: unary({ args: [], result: port, help: "End the ADB server" }),
    connect_device: unary({ args: [device], result: said, help: "Connect to a device over the network" }),
    disconnect_device: unary({ args: [device], result: said, help: "Disconnect from a device on the network" }),
    list_devices: unary({ args: [], result: said, help: "List the devices that the ADB server sees" }),
  },
});
