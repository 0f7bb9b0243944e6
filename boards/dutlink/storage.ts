import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { imageStorageMux } from "../storage/interface.ts";
import { muxConfig, openMux } from "../storage/mux.ts";
import { inspectUsb } from "../usb/find.ts";
import { boardConfig, boardOf, controlNodeOf, searchOf } from "./board.ts";
import { storageRequest } from "./protocol.ts";

export default defineDriver({
  types: ["jumpstarter_driver_dutlink.driver.DutlinkStorageMux"],
  summary: "Storage of a DUTLink board, switched between the host and the device.",
  implements: imageStorageMux,
  hotPlugged: true,
  config: z.strictObject({
    ...boardConfig,
    ...muxConfig,
    storage_device: z.string().min(1).describe("the storage as a disk of this host, better by-path or by-id"),
  }),
  needs: () => ({ rights: ["usb", "disk"] }),
  inspect: (config) => inspectUsb(searchOf(config), controlNodeOf),
  async open({ config, ...context }) {
    const board = boardOf(config, context);
    return openMux(
      {
        key: `dutlink ${await board.check()}`,
        // No request tells how it stands.
        select: (side, { signal, log }) =>
          board.exchange(signal, async ({ controlOut, interfaceNumber, timeoutMs, name }) => {
            await controlOut(storageRequest(side, interfaceNumber), new Uint8Array(0), timeoutMs);
            log.debug(`storage ${side}: ${name}`);
          }),
        locate: () => config.storage_device,
        check: () => board.check(),
      },
      config,
      context,
    );
  },
});
