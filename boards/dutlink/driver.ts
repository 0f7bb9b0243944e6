import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { composite } from "../composite/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import pySerial from "../serial/driver.ts";
import { muxConfig } from "../storage/mux.ts";
import { inspectUsb, suggestUsb } from "../usb/find.ts";
import { boardConfig, controlNodeOf, prints, searchOf } from "./board.ts";

const type = "jumpstarter_driver_dutlink.driver.Dutlink";

/** Brings along `power`, `storage` and `console` of one board. */
export default defineDriver({
  types: [type],
  summary: "A DUTLink board: power with a meter, storage that is switched between host and device, and a console.",
  implements: composite,
  config: z.strictObject({
    ...boardConfig,
    ...muxConfig,
    storage_device: z.string().min(1).describe("the storage as a disk of this host, better by-path or by-id"),
    baudrate: lax.int(50, 100_000_000).prefault(115_200).describe("of the console; the board's own has 115200"),
    record: pySerial.config.shape.record,
    alternate_console: z.string().nullish().describe("serial port to take in place of the board's own"),
  }),
  children({ config: { storage_device, baudrate, alternate_console, record, serial, path, timeout_s, ...storage } }) {
    const board = { serial, path, timeout_s };
    const line = { baudrate, record };
    return {
      power: { type: `${type}Power`, config: board },
      storage: { type: `${type}StorageMux`, config: { ...board, ...storage, storage_device } },
      // A port that has no power before the device has is offline until then, and holds up nobody.
      console:
        typeof alternate_console === "string"
          ? { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: alternate_console, ...line } }
          : { type: `${type}Serial`, config: { ...board, ...line } },
    };
  },
  inspect: (config) => inspectUsb(searchOf(config), controlNodeOf),
  suggest: () =>
    suggestUsb(prints, (_match, wanted) => [
      {
        name: "dutlink",
        entry: { type, config: { ...wanted, storage_device: "/dev/disk/by-path/THE-STORAGE-IN-THE-BOARD" } },
      },
    ]),
  open: () => ({ methods: {} }),
});
