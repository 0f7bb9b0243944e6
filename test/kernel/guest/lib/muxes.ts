/** SD muxes that are plugged into the guest. */
import type { TestContext } from "node:test";
import { listUsbDevices, nodesBelow } from "../../../../agent/sys/usb-devices.ts";
import { imageStorageMux } from "../../../../boards/storage/interface.ts";
import { ft200x, simCard } from "../../../sim/usbip/card-mux.ts";
import type { MassStorageOptions } from "../../../sim/usbip/mass-storage.ts";
import { plugUsb } from "../../../sim/usbip/plug.ts";
import { exporter } from "./exporter.ts";
import { modprobe, waitFor } from "./system.ts";

export const cardBytes = 4 * 2 ** 20;
export const quick = { storage_leeway: 0, storage_timeout: 5 };

export async function loadModules(): Promise<void> {
  for (const module of ["vhci_hcd", "usb_storage", "sd_mod", "sg"]) await modprobe(module);
}

/** Of the USB device at this place. */
export async function diskAt(path: string): Promise<string> {
  const name = await waitFor("the reader's disk", async () => {
    const device = (await listUsbDevices()).find((one) => one.path === path);
    return device === undefined ? undefined : (await nodesBelow(device, "block"))[0];
  });
  return `/dev/${name}`;
}

/** An SDWire: chip and reader. The virtual controller has no hubs: the driver is told which disk it is. */
export async function sdWire(t: TestContext, options: MassStorageOptions = {}) {
  const card = simCard(cardBytes, { vendor: "Generic", product: "Ultra HS-SD/MMC", ...options });
  const chip = ft200x(card);
  const reader = await plugUsb(t, {
    vendorId: 0x0424,
    productId: 0x4050,
    serial: "000000000011",
    functions: [card.reader],
  });
  const plug = await plugUsb(t, chip.model);
  const disk = await diskAt(reader.path);
  const guest = await exporter(t, {
    storage: {
      type: "jumpstarter_driver_sdwire.driver.SDWire",
      config: { serial: "sd-wire_11", storage_device: disk, ...quick },
    },
  });
  return {
    card,
    chip,
    plug,
    disk,
    socketPath: guest.socketPath,
    storage: guest.node("storage"),
    calls: guest.node("storage").as(imageStorageMux),
  };
}
