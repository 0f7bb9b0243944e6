import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { toAgentError } from "../../agent/driver/errors.ts";
import { describeUsb, nodesBelow } from "../../agent/sys/usb-devices.ts";
import { imageStorageMux } from "../storage/interface.ts";
import { muxConfig, openMux } from "../storage/mux.ts";
import { theOnlyDisk } from "../storage/the-only-disk.ts";
import { findMux, listMuxes, withMux, type FoundMux } from "./transport.ts";

const names = { classic: "USB-SD-Mux", fast: "USB-SD-Mux FAST" } as const;
const describe = ({ device, kind }: FoundMux) => `${names[kind]} ${describeUsb(device)}`;

/** The Python exporter has no driver for it. */
export default defineDriver({
  types: ["jumpstarter_agent.UsbSdMux"],
  summary: "USB-SD-Mux and USB-SD-Mux FAST: a micro SD card that is switched between host and board, or cut off.",
  implements: imageStorageMux,
  config: z.strictObject({
    serial: z.string().nullish().describe("USB serial number, as in /dev/usb-sd-mux/id-…"),
    path: z.string().nullish().describe("where it is plugged in, as the kernel names it: 1-1.2"),
    ...muxConfig,
  }),
  hotPlugged: true,
  async open(context) {
    const { config } = context;
    const find = () => findMux(config);
    const { device } = await find();
    return openMux(
      {
        key: device.path,
        select: async (mode, { signal }) => withMux(await find(), (link) => link.switchTo(mode, signal)),
        async locate() {
          const now = (await find()).device;
          return theOnlyDisk(await nodesBelow(now, "block"), describeUsb(now));
        },
        describeMedium: async ({ signal }) => withMux(await find(), (link) => link.card(signal)),
        check: find,
      },
      config,
      context,
    );
  },
  needs: () => ({ modules: ["usb-storage", "sg"], rights: ["scsi", "disk"] }),
  async inspect(config) {
    try {
      const mux = await findMux(config);
      const disks = await nodesBelow(mux.device, "block");
      const nodes = [mux.sg, ...disks].map((name) => `/dev/${name}`);
      return [{ ok: true, text: describe(mux), nodes }];
    } catch (error) {
      const { message, hint = "plug it in, or correct serial or path" } = toAgentError(error);
      return [{ ok: false, text: message, hint }];
    }
  },
  async suggest() {
    const muxes = await listMuxes();
    return muxes.map((mux, index) => {
      const { serial, path } = mux.device;
      const isUnique = muxes.filter(({ device }) => device.serial === serial).length === 1;
      return {
        name: muxes.length === 1 ? "storage" : `storage${index + 1}`,
        entry: {
          type: "jumpstarter_agent.UsbSdMux",
          config: serial !== undefined && isUnique ? { serial } : { path },
        },
        why: describe(mux),
      };
    });
  },
});
