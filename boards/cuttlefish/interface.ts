import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { virtualPower } from "../power/interface.ts";
import { flasher } from "../storage/interface.ts";

/** What the host orchestrator said, as JSON. */
const said = z.string();
const ask = (help: string) => unary({ args: [], result: said, help });

/** A virtual Android device of Cuttlefish; its power switch, its storage and its ADB server are its children. */
export const cuttlefish = defineInterface({
  driverType: "composite",
  client: "jumpstarter_driver_cuttlefish.client.CuttlefishClient",
  methods: {
    get_host: ask("Address of the host orchestrator"),
    get_webrtc_url: ask("Where a browser sees the screen"),
    get_adb_port: unary({ args: [], result: z.int(), help: "TCP port of the device's ADB" }),
    status: ask("How the host orchestrator is"),
    list_cvds: ask("List the devices of the host"),
    get_cvd: ask("Show this device"),
    create_cvd: unary({
      args: [z.string().describe("environment as JSON")],
      result: said,
      help: "Make a device of an environment",
    }),
    start_cvd: ask("Start this device"),
    stop_cvd: ask("Stop this device"),
    restart_cvd: ask("Restart this device"),
    powerwash_cvd: ask("Reset this device to its first state"),
    powerbtn_cvd: ask("Press this device's power button"),
    delete_cvd: ask("Delete this device"),
    list_operations: ask("List what the host orchestrator has under way"),
    wait_boot: unary({
      args: [z.number().min(0).default(0).describe("seconds; 0: as configured")],
      result: said,
      help: "Wait until Android has booted",
    }),
    reset_host: ask("Delete all devices of the host"),
  },
});

/** Its `off` can also delete the device. */
export const cuttlefishPower = defineInterface({
  ...virtualPower,
  client: "jumpstarter_driver_cuttlefish.client.CvdPowerClient",
});

/** There is nothing to flash: a device is made of what its environment names. */
export const cuttlefishStorage = defineInterface({ ...flasher, client: "jumpstarter.client.flasher.FlasherClient" });
