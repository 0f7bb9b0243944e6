import { realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { attribute, entriesOf, linkName, numberAttribute } from "../../sys/sysfs.ts";
import { listUsbDevices, nodesBelow, usbId, type NodeKind, type UsbDevice } from "../../sys/usb-devices.ts";

/** What is plugged in, and what is plugged into that. */
export interface PluggedIn {
  /** For people: `04e8:6001 Samsung sd-wire, serial sd-wire_11`. */
  readonly what: string;
  /** Where: `1-1.2`. */
  readonly at?: string;
  /** How programs reach it: `/dev/ttyUSB0`, or the name of a network interface. */
  readonly nodes: readonly string[];
  readonly below: readonly PluggedIn[];
}

/** if_arp.h */
const ARPHRD_CAN = "280";

/** One entry for each kind of thing that boards are wired to. Kinds of which there is nothing are left out. */
export async function pluggedIn(sys: string): Promise<PluggedIn[]> {
  const usb = await listUsbDevices(sys);
  const below = { serial: platformPorts(sys), gpio: gpioChips(sys), i2c: i2cAdapters(sys) };
  const sections: [string, Promise<PluggedIn[]>][] = [
    ["USB", usbTree(usb, sys)],
    ["Serial ports", below.serial],
    ["GPIO chips", below.gpio],
    ["I2C adapters", below.i2c],
    ["CAN interfaces", canInterfaces(sys)],
    ["SD and MMC", cards(sys)],
  ];
  const read = await Promise.all(sections.map(async ([what, found]) => leaf(what, { below: await found })));
  return read.filter((section) => section.below.length > 0);
}

function leaf(what: string, { at, nodes = [], below = [] }: Partial<PluggedIn> = {}): PluggedIn {
  return { what, ...(at === undefined ? {} : { at }), nodes, below };
}

const kinds: readonly NodeKind[] = ["tty", "hidraw", "block", "scsi_generic", "net", "usbmisc", "i2c-dev", "gpio"];

async function usbTree(devices: readonly UsbDevice[], sys: string): Promise<PluggedIn[]> {
  const subtree = async (device: UsbDevice): Promise<PluggedIn> => {
    const children = devices.filter(({ parentPath }) => parentPath === device.path);
    const nodes: string[] = [];
    for (const kind of kinds) {
      for (const name of await nodesBelow(device, kind)) nodes.push(await describeNode(kind, name, sys));
    }
    const { manufacturer, product, serial } = device;
    const named = [usbId(device.vendorId, device.productId), manufacturer?.trim(), product?.trim()].filter(Boolean);
    const what = named.join(" ") + (serial === undefined ? "" : `, serial ${serial}`);
    return leaf(what, { at: device.path, nodes, below: await Promise.all(children.map(subtree)) });
  };
  return await Promise.all(devices.filter(({ parentPath }) => parentPath === undefined).map(subtree));
}

async function describeNode(kind: NodeKind, name: string, sys: string): Promise<string> {
  if (kind === "net") return name;
  if (kind !== "block") return `/dev/${name}`;
  return `/dev/${name} (${await medium(sys, name)})`;
}

/** /sys counts in sectors of 512 bytes, whatever the disk's own are. */
async function medium(sys: string, disk: string): Promise<string> {
  const bytes = ((await numberAttribute(sys, "class/block", disk, "size")) ?? 0) * 512;
  if (bytes === 0) return "no medium";
  return bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

/** Ports of the machine itself; those of USB adapters are with these. */
async function platformPorts(sys: string): Promise<PluggedIn[]> {
  const found: PluggedIn[] = [];
  for (const name of await entriesOf(sys, "class/tty")) {
    const directory = join(sys, "class/tty", name);
    const device = await realpath(join(directory, "device")).catch(() => undefined);
    if (device === undefined || /\/usb\d+\//.test(device)) continue;
    // 8250's driver has names for ports that the machine does not have: PORT_UNKNOWN of linux/serial_core.h.
    if ((await attribute(directory, "type")) === "0") continue;
    const driver = await linkName(directory, "device/driver");
    // Newer kernels put a device of their own, driven by `port`, between a port and its hardware.
    const what = driver === undefined || driver === "port" ? "serial port" : driver;
    found.push(leaf(what, { nodes: [`/dev/${name}`] }));
  }
  return found;
}

async function gpioChips(sys: string): Promise<PluggedIn[]> {
  const labels = await gpioLabels(sys);
  const chips: PluggedIn[] = [];
  for (const name of await entriesOf(sys, "bus/gpio/devices")) {
    const parent = await realpath(join(sys, "bus/gpio/devices", name)).then(dirname, () => "");
    const known = labels.filter(({ device }) => device === parent);
    // One device may have several chips, and nothing in /sys tells which is which.
    const [label] = known.length === 1 ? known : [];
    const lines = label?.lines === undefined ? "" : `, ${label.lines} lines`;
    chips.push(leaf(`${label?.label ?? "GPIO chip"}${lines}`, { nodes: [`/dev/${name}`] }));
  }
  return chips;
}

/** The chips of the older interface, which says what the newer one tells by ioctl only. */
async function gpioLabels(sys: string) {
  const chips = (await entriesOf(sys, "class/gpio")).filter((name) => /^gpiochip\d+$/.test(name));
  return await Promise.all(
    chips.map(async (name) => {
      const directory = join(sys, "class/gpio", name);
      const device = await realpath(join(directory, "device")).catch(() => undefined);
      const [label, lines] = [await attribute(directory, "label"), await numberAttribute(directory, "ngpio")];
      return { device, label, lines };
    }),
  );
}

async function i2cAdapters(sys: string): Promise<PluggedIn[]> {
  const devices = join(sys, "bus/i2c/devices");
  const names = await entriesOf(devices);
  const adapters = names.filter((name) => /^i2c-\d+$/.test(name));
  return await Promise.all(
    adapters.map(async (adapter) => {
      const number = adapter.slice("i2c-".length);
      const chips = names.filter((name) => name.startsWith(`${number}-`));
      const below = await Promise.all(
        chips.map(async (chip) => {
          const driver = await linkName(devices, chip, "driver");
          const taken = driver === undefined ? "" : `, taken by the kernel's driver ${driver}`;
          const address = `0x${chip.slice(-2)}`;
          return leaf(`${(await attribute(devices, chip, "name")) ?? "chip"}${taken}`, { at: address });
        }),
      );
      const what = (await attribute(devices, adapter, "name")) ?? "I2C adapter";
      return leaf(what, { at: adapter, nodes: [`/dev/${adapter}`], below });
    }),
  );
}

async function canInterfaces(sys: string): Promise<PluggedIn[]> {
  const found: PluggedIn[] = [];
  for (const name of await entriesOf(sys, "class/net")) {
    const directory = join(sys, "class/net", name);
    if ((await attribute(directory, "type")) !== ARPHRD_CAN) continue;
    const driver = (await linkName(directory, "device/driver")) ?? "virtual";
    // linux/if.h IFF_UP: a CAN interface has no carrier that operstate could show.
    const up = (Number(await attribute(directory, "flags")) & 1) === 1;
    found.push(leaf(`${driver}, ${up ? "up" : "down"}`, { nodes: [name] }));
  }
  return found;
}

async function cards(sys: string): Promise<PluggedIn[]> {
  const disks = (await entriesOf(sys, "class/block")).filter((name) => /^mmcblk\d+$/.test(name));
  return await Promise.all(
    disks.map(async (disk) => {
      const device = join(sys, "class/block", disk, "device");
      const named = [await attribute(device, "type"), await attribute(device, "name")].filter(Boolean).join(" ");
      return leaf(`${named || "card"}, ${await medium(sys, disk)}`, { nodes: [`/dev/${disk}`] });
    }),
  );
}
