import { listUsbDevices, nodesBelow, type NodeKind } from "../../../../agent/sys/usb-devices.ts";
import { modprobe, waitFor } from "./system.ts";

/** Path of the node of the device that is plugged in there, as soon as it has one. */
export async function usbNodeOf(path: string, kind: NodeKind): Promise<string> {
  const name = await waitFor(`${kind} of ${path}`, async () => {
    const device = (await listUsbDevices()).find((one) => one.path === path);
    return device === undefined ? undefined : (await nodesBelow(device, kind))[0];
  });
  return `/dev/${name}`;
}

/** Drivers of what simulated boards consist of: udev would load them. */
export async function loadUsbDrivers(): Promise<void> {
  for (const name of ["usbhid", "hid_generic", "cdc_acm", "usb_storage", "sd_mod"]) await modprobe(name);
}
