import * as z from "zod";
import { defineDriver, type Finding, type OpenContext } from "../../agent/driver/driver.ts";
import { DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import { describeUsb, listUsbDevices } from "../../agent/sys/usb-devices.ts";
import { usbNode } from "../../agent/sys/usbfs.ts";
import { imageStorageMux } from "../storage/interface.ts";
import { muxConfig, openMux } from "../storage/mux.ts";
import { matchDevices } from "../usb/match.ts";
import { diskBesides, findDevice, sdWirePrints } from "./devices.ts";
import { pinSide, switchPin } from "./transport.ts";

const what = "sd-wire";

export const deviceConfig = {
  serial: z.string().nullish().describe("USB serial number"),
  path: z.string().nullish().describe("where it is plugged in, as the kernel names it: 1-1.2"),
  storage_device: z
    .string()
    .nullish()
    .describe("path of the whole disk, where it is not that of the card reader beside the switch"),
  ...muxConfig,
};

export default defineDriver({
  types: ["jumpstarter_driver_sdwire.driver.SDWire"],
  summary: "SDWire and SDWireC: a micro SD card that is switched between host and board.",
  implements: imageStorageMux,
  config: z.strictObject(deviceConfig),
  hotPlugged: true,
  async open(context) {
    const { config, log } = context;
    const find = () => findDevice(sdWirePrints, config, what);
    const locate = async () => config.storage_device ?? diskBesides(await find());
    const { device } = await find();
    if ((await locate()) === undefined) {
      throw new DeviceOffline(`failed to find sdcard storage device on sd-wire ${describeUsb(device)}`);
    }
    warnOfSequence(config.storage_device, log);
    return openMux(
      {
        key: device.path,
        // Found anew each time: it may have been plugged in elsewhere. The card has no third side: off is the host's, as ever.
        select: async (side) => switchPin((await find()).device, side === "dut" ? "dut" : "host"),
        locate,
        check: find,
      },
      config,
      context,
    );
  },
  needs: () => ({ rights: ["usb", "disk"] }),
  async inspect(config) {
    try {
      const found = await findDevice(sdWirePrints, config, what);
      const disk = config.storage_device ?? (await diskBesides(found));
      // The doctor looks at the node by itself, where this user may not open it.
      const side = await pinSide(found.device).catch(() => undefined);
      const where = side === undefined ? "" : `, the card is at the ${side}`;
      return [
        { ok: true, text: `SDWire ${describeUsb(found.device)}${where}`, nodes: [usbNode(found.device)] },
        diskFinding(disk, "no card reader with a disk on the hub of the SDWire"),
      ];
    } catch (error) {
      return [{ ok: false, text: toAgentError(error).message, hint: "plug it in, or correct serial or path" }];
    }
  },
  async suggest() {
    const matches = matchDevices(await listUsbDevices(), sdWirePrints);
    const serials = matches.map(({ device }) => device.serial);
    return matches.map(({ device }, index) => ({
      name: matches.length === 1 ? "storage" : `storage${index + 1}`,
      entry: {
        type: "jumpstarter_driver_sdwire.driver.SDWire",
        config:
          device.serial !== undefined && serials.filter((serial) => serial === device.serial).length === 1
            ? { serial: device.serial }
            : { path: device.path },
      },
      why: `SDWire ${describeUsb(device)}`,
    }));
  },
});

/** What `inspect` says of the disk. */
export function diskFinding(disk: string | undefined, missing: string): Finding {
  return disk === undefined
    ? { ok: false, text: missing, hint: "set storage_device to the disk, or insert the card" }
    : { ok: true, text: `disk ${disk}`, nodes: [disk] };
}

/** A link by the sequence number of a medium, as examples have it, leads nowhere when the card was taken away once. */
export function warnOfSequence(path: string | null | undefined, log: OpenContext<unknown>["log"]): void {
  if (path?.startsWith("/dev/disk/by-diskseq/") !== true) return;
  log.warn(
    `storage_device ${path} names a medium that is another one after each switch: leave it out, or use /dev/disk/by-path`,
  );
}
