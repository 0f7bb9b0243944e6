import { describeUsb, listUsbDevices, nodesBelow, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import { theOnlyDisk } from "../storage/the-only-disk.ts";
import { chooseDevice, type Fingerprint, type Wanted } from "../usb/match.ts";

/** SDWire and SDWireC are the same chip. */
export const sdWirePrints: readonly Fingerprint[] = [
  { name: "SDWire", vendorId: 0x04e8, productId: 0x6001, product: /^sd-wire$/ },
  // As it leaves the factory: the chip may be on any board.
  { name: "SDWire (FT200X as from the factory)", vendorId: 0x0403, productId: 0x6015, generic: true },
];

/** A Realtek card reader, as laptops have them, too. */
export const sdWire3Prints: readonly Fingerprint[] = [
  { name: "SDWire3", vendorId: 0x0bda, productId: 0x0316, generic: true },
];

/** The card reader on an SDWire's hub. */
const reader = { vendorId: 0x0424, productId: 0x4050 };

export interface Found {
  readonly device: UsbDevice;
  readonly devices: readonly UsbDevice[];
}

/** @throws DeviceOffline when it is not plugged in, or several may be meant */
export async function findDevice(
  prints: readonly Fingerprint[],
  wanted: Wanted,
  what: string,
  sysRoot?: string,
): Promise<Found> {
  const devices = await listUsbDevices(sysRoot);
  return { device: chooseDevice(devices, prints, wanted, what).device, devices };
}

/**
 * The disk of the reader that sits on the same hub. @returns `/dev/sda`, or undefined while there is none.
 * @throws DeviceOffline when several may be meant
 */
export async function diskBesides({ device, devices }: Found): Promise<string | undefined> {
  // On the computer's own ports anything may be plugged in beside it; an SDWire brings its hub along.
  if (device.parentPath === undefined || device.parentPath.startsWith("usb")) return undefined;
  const siblings = devices.filter(({ path, parentPath }) => parentPath === device.parentPath && path !== device.path);
  const disks = await Promise.all(
    siblings.map(async (sibling) => ({ sibling, nodes: await nodesBelow(sibling, "block") })),
  );
  const withDisk = disks.filter(({ nodes }) => nodes.length > 0);
  const readers = withDisk.filter(
    ({ sibling }) => sibling.vendorId === reader.vendorId && sibling.productId === reader.productId,
  );
  const nodes = (readers.length > 0 ? readers : withDisk).flatMap((each) => each.nodes);
  return theOnlyDisk(nodes, `the hub of ${describeUsb(device)}`);
}
