import * as z from "zod";
import { defineInterface, unary, unsupported } from "../../agent/driver/interface.ts";
import { power } from "../power/interface.ts";
import { serialPort } from "../serial/interface.ts";

const nothing = z.null();
const text = z.string();
/** A partition, or a device: a word that no program takes for an option. */
const word = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}$/, "must be letters, digits and any of _ . : -");

/** A Qualcomm RideSX board: its image store is the child `storage`, its test harness the child `serial`. */
export const rideSX = defineInterface({
  driverType: "automotive",
  client: "jumpstarter_driver_ridesx.client.RideSXClient",
  methods: {
    detect_fastboot_device: unary({
      args: [z.number().min(1).max(1_000).default(5), z.number().min(0).max(600).default(2)],
      result: z.object({ status: z.enum(["device_found", "no_device_found"]), device_id: text.nullable() }),
      help: "Look for the board in fastboot mode: attempts, seconds between them",
    }),
    flash_with_fastboot: unary({
      args: [word, z.record(z.string(), text)],
      result: nothing,
      help: "Flash files of the storage: device, {partition: file}",
    }),
    flash_oci_image: unary({
      args: [text, z.record(z.string(), text).nullish(), text.nullish(), text.nullish()],
      result: z.object({ status: text, output: text }),
      help: "Flash an OCI image with fls",
    }),
    erase_partition: unary({
      args: [word, text],
      result: z.object({ status: text, partition: text, output: text }),
      help: "Erase a partition: device, partition",
    }),
    boot_to_fastboot: unary({ args: [], result: nothing, help: "Bring the board into fastboot mode" }),
  },
});

/** Its power, by the same harness. */
export const rideSXPower = defineInterface({
  driverType: "power",
  client: "jumpstarter_driver_ridesx.client.RideSXPowerClient",
  methods: {
    on: power.methods.on,
    off: power.methods.off,
    cycle: unary({
      args: [z.number().min(0).max(3_600).default(2)],
      result: nothing,
      help: "Power off, wait so many seconds (2), power on",
    }),
    rescue: unary({ args: [], result: nothing }),
  },
});

export const noRescue = unsupported("Rescue mode not available for RideSX");

/** What is asked of the serial child. */
export const harness = defineInterface({ ...serialPort, methods: { connect: serialPort.methods.connect } });
