import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { toAgentError } from "../../agent/driver/errors.ts";
import { describeUsb, listUsbDevices, nodesBelow } from "../../agent/sys/usb-devices.ts";
import { usbNode } from "../../agent/sys/usbfs.ts";
import { imageStorageMux } from "../storage/interface.ts";
import { openMux } from "../storage/mux.ts";
import { theOnlyDisk } from "../storage/the-only-disk.ts";
import { deviceConfig, diskFinding, warnOfSequence } from "./driver.ts";
import { findDevice, sdWire3Prints } from "./devices.ts";
import { driverSide, switchDriver } from "./transport.ts";

const what = "SDWire3";

/** The Python exporter has no driver for it. */
export default defineDriver({
  types: ["jumpstarter_agent.SDWire3"],
  summary: "SDWire3: a micro SD card that goes to the board while the host lets go of the card reader.",
  implements: imageStorageMux,
  config: z
    .strictObject(deviceConfig)
    .refine(({ serial, path }) => typeof serial === "string" || typeof path === "string", {
      error: "serial or path is needed: the SDWire3 says the same of itself as card readers in laptops",
    }),
  hotPlugged: true,
  async open(context) {
    const { config, log } = context;
    const find = async () => (await findDevice(sdWire3Prints, config, what)).device;
    const device = await find();
    warnOfSequence(config.storage_device, log);
    return openMux(
      {
        key: device.path,
        select: async (side) => {
          const now = await find();
          const wanted = side === "dut" ? "dut" : "host";
          // A reset for nothing would take the card from under whoever uses it.
          if (driverSide(now) !== wanted) await switchDriver(now, wanted);
        },
        async locate() {
          if (typeof config.storage_device === "string") return config.storage_device;
          const now = await find();
          return theOnlyDisk(await nodesBelow(now, "block"), describeUsb(now));
        },
        check: find,
      },
      config,
      context,
    );
  },
  needs: () => ({ modules: ["usb-storage"], rights: ["usb", "disk"] }),
  async inspect(config) {
    try {
      const { device } = await findDevice(sdWire3Prints, config, what);
      const seen = { ok: true, text: `SDWire3 ${describeUsb(device)}`, nodes: [usbNode(device)] };
      if (driverSide(device) === "dut") return [seen, { ok: true, text: "the card is at the board" }];
      const disk = config.storage_device ?? theOnlyDisk(await nodesBelow(device, "block"), describeUsb(device));
      return [seen, diskFinding(disk, `${describeUsb(device)} has no disk`)];
    } catch (error) {
      return [{ ok: false, text: toAgentError(error).message, hint: "plug it in, or correct serial or path" }];
    }
  },
  async suggest() {
    const devices = (await listUsbDevices()).filter((device) =>
      sdWire3Prints.some(({ vendorId, productId }) => device.vendorId === vendorId && device.productId === productId),
    );
    return devices.map((device, index) => ({
      name: devices.length === 1 ? "storage" : `storage${index + 1}`,
      // Their serial numbers are not unique.
      entry: { type: "jumpstarter_agent.SDWire3", config: { path: device.path } },
      why: `SDWire3, or an ordinary card reader: ${describeUsb(device)}`,
    }));
  },
});
