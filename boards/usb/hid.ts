import { DeviceOffline } from "../../agent/driver/errors.ts";
import { hidrawNode, openHidraw, type HidHandle } from "../../agent/sys/hidraw.ts";
import { describeUsb, type UsbDevice } from "../../agent/sys/usb-devices.ts";

/** USB class of human interface devices; relays take it because no system needs a driver for it. */
const hidClass = 3;

/** Path of the node of a device's HID interface. @throws DeviceOffline if the kernel has not made one */
export async function hidNodeOf(device: UsbDevice): Promise<string> {
  for (const { class: kind, sysfs } of device.interfaces) {
    const node = kind === hidClass ? await hidrawNode(sysfs) : undefined;
    if (node !== undefined) return node;
  }
  throw new DeviceOffline(`${describeUsb(device)} has no hidraw node`, {
    hint: "load the kernel module usbhid, and see that no program has taken the device from it",
  });
}

/** @throws as `hidNodeOf` and `openHidraw` */
export async function openHid(device: UsbDevice): Promise<HidHandle> {
  return openHidraw(await hidNodeOf(device), describeUsb(device));
}
