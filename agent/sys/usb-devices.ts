import { readdir, readFile, readlink, realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** USB devices as sysfs shows them (Documentation/ABI/testing/sysfs-bus-usb): no native code, no permissions. */

export interface UsbInterface {
  readonly number: number;
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
  /** Kernel driver that has it now. */
  readonly driver: string | undefined;
  /** Its directory. */
  readonly sysfs: string;
}

export interface UsbDevice {
  /** Where it is plugged in, as the kernel names it: bus, then ports (`1-1.2`); a root hub is `usb1`. */
  readonly path: string;
  readonly vendorId: number;
  readonly productId: number;
  /** bcdDevice. */
  readonly version: number;
  readonly manufacturer: string | undefined;
  readonly product: string | undefined;
  readonly serial: string | undefined;
  readonly deviceClass: number;
  readonly busNumber: number;
  readonly deviceNumber: number;
  /** Path of the hub that it is plugged into; undefined for a root hub. */
  readonly parentPath: string | undefined;
  /** Port of that hub. */
  readonly portNumber: number | undefined;
  readonly interfaces: readonly UsbInterface[];
  /** Its directory. */
  readonly sysfs: string;
}

/** Kinds of device nodes that are looked for below a USB device. */
export type NodeKind = "tty" | "hidraw" | "block" | "scsi_generic" | "net" | "usbmisc" | "i2c-dev" | "gpio";

/** All devices, hubs before what is plugged into them. What vanishes meanwhile is left out. */
export async function listUsbDevices(root = "/sys"): Promise<UsbDevice[]> {
  const folder = join(root, "bus/usb/devices");
  const names = await readdir(folder).catch(() => []);
  // `1-1:1.0` is an interface.
  const devices = await Promise.all(
    names
      .filter((name) => !name.includes(":"))
      .map((name) => readDevice(join(folder, name), name).catch(() => undefined)),
  );
  return devices.filter((device) => device !== undefined).sort(byPosition);
}

async function readDevice(link: string, path: string): Promise<UsbDevice> {
  const sysfs = await realpath(link);
  const hex = async (name: string) => Number.parseInt(await attribute(sysfs, name), 16);
  const decimal = async (name: string) => Number.parseInt(await attribute(sysfs, name), 10);
  const text = (name: string) => attribute(sysfs, name).catch(() => undefined);
  const children = await readdir(sysfs);
  const interfaces = await Promise.all(
    children
      .filter((name) => name.startsWith(`${path}:`))
      .map((name) => readInterface(join(sysfs, name)).catch(() => undefined)),
  );
  const dot = path.search(/[.-][0-9]+$/);
  const portNumber = dot === -1 ? undefined : Number(path.slice(dot + 1));
  return {
    path,
    vendorId: await hex("idVendor"),
    productId: await hex("idProduct"),
    version: await hex("bcdDevice"),
    deviceClass: await hex("bDeviceClass"),
    manufacturer: await text("manufacturer"),
    product: await text("product"),
    serial: await text("serial"),
    busNumber: await decimal("busnum"),
    deviceNumber: await decimal("devnum"),
    parentPath: portNumber === undefined ? undefined : basename(dirname(sysfs)),
    portNumber,
    interfaces: interfaces.filter((found) => found !== undefined).sort((a, b) => a.number - b.number),
    sysfs,
  };
}

async function readInterface(sysfs: string): Promise<UsbInterface> {
  const hex = async (name: string) => Number.parseInt(await attribute(sysfs, name), 16);
  return {
    number: await hex("bInterfaceNumber"),
    class: await hex("bInterfaceClass"),
    subclass: await hex("bInterfaceSubClass"),
    protocol: await hex("bInterfaceProtocol"),
    driver: await readlink(join(sysfs, "driver")).then(basename, () => undefined),
    sysfs,
  };
}

async function attribute(sysfs: string, name: string): Promise<string> {
  return (await readFile(join(sysfs, name), "utf8")).replace(/\n$/, "");
}

/**
 * Names of the nodes that belong to a device, or to one of its interfaces: `ttyUSB0`, `hidraw1`, `sda` (disks, not partitions). What
 * hangs on a hub's ports belongs to the devices there.
 */
export async function nodesBelow({ sysfs }: { readonly sysfs: string }, kind: NodeKind): Promise<string[]> {
  const found = new Set<string>();
  // Host, target, unit, `block`, `sda` below an interface are the deepest.
  const walk = async (folder: string, depth: number): Promise<void> => {
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
    await Promise.all(
      entries.map(async (entry) => {
        if (!entry.isDirectory()) return;
        const path = join(folder, entry.name);
        // usb-serial makes `ttyUSB0/tty/ttyUSB0`; its outer directory is no node of a class.
        if (basename(folder) === kind) found.add(entry.name);
        else if (!isUsbDevice(entry.name) && depth > 0) await walk(path, depth - 1);
      }),
    );
  };
  await walk(sysfs, 8);
  return [...found].sort();
}

const isUsbDevice = (name: string) => /^([0-9]+-[0-9.]+|usb[0-9]+)$/.test(name);

/** For people: `04e8:6001 sd-wire, serial sd-wire_11, at 1-1.2`. */
export function describeUsb({ vendorId, productId, product, serial, path }: UsbDevice): string {
  const name = product === undefined ? "" : ` ${product}`;
  return `${usbId(vendorId, productId)}${name}${serial === undefined ? "" : `, serial ${serial}`}, at ${path}`;
}

/** `04e8:6001` */
export function usbId(vendorId: number, productId: number): string {
  const hex = (value: number) => value.toString(16).padStart(4, "0");
  return `${hex(vendorId)}:${hex(productId)}`;
}

function byPosition(left: UsbDevice, right: UsbDevice): number {
  const numbers = ({ path }: UsbDevice) => (path.match(/[0-9]+/g) ?? []).map(Number);
  const [a, b] = [numbers(left), numbers(right)];
  for (let index = 0; index < Math.max(a.length, b.length); index += 1) {
    const difference = (a[index] ?? -1) - (b[index] ?? -1);
    if (difference !== 0) return difference;
  }
  return 0;
}
