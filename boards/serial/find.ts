import { readFile, realpath } from "node:fs/promises";
import { join } from "node:path";
import { DeviceOffline } from "../../agent/driver/errors.ts";
import { describeUsb, listUsbDevices, nodesBelow, usbId, type UsbDevice } from "../../agent/sys/usb-devices.ts";

/** A serial port of a USB device. */
export interface UsbPort {
  /** `ttyUSB0` */
  readonly node: string;
  readonly device: UsbDevice;
  /** Number of the interface that it belongs to. */
  readonly interface: number;
  /** What pyserial's list of ports says of it, which `hwgrep://` looks into: name, description, hardware id. */
  readonly words: readonly string[];
}

/** Says which of the ports is meant; text for people where it is none, or more than one. */
export interface PortMatcher {
  readonly what: string;
  readonly matches: (port: UsbPort) => boolean;
  /** Which of several, from 1 on; undefined: there must be one only. */
  readonly which?: number | undefined;
}

/** All serial ports of USB devices. They need no udev. */
export async function listUsbPorts(root = "/sys"): Promise<UsbPort[]> {
  const ports: UsbPort[] = [];
  for (const device of await listUsbDevices(root)) {
    for (const { number, sysfs } of device.interfaces) {
      for (const node of await nodesBelow({ sysfs }, "tty")) {
        const name = await readFile(join(sysfs, "interface"), "utf8").then(
          (text) => text.trimEnd(),
          () => undefined,
        );
        ports.push({ node, device, interface: number, words: pyserialWords(node, device, sysfs, name) });
      }
    }
  }
  return ports;
}

/** As serial.tools.list_ports of pyserial 3.5 has them. */
function pyserialWords(node: string, device: UsbDevice, sysfs: string, name: string | undefined): string[] {
  const { product, serial, path, vendorId, productId, interfaces } = device;
  const description = name === undefined ? (product ?? node) : `${product ?? "None"} - ${name}`;
  const location = interfaces.length > 1 ? (sysfs.split("/").at(-1) ?? path) : path;
  const ids = usbId(vendorId, productId).toUpperCase();
  return [
    `/dev/${node}`,
    description,
    `USB VID:PID=${ids}${serial === undefined ? "" : ` SER=${serial}`} LOCATION=${location}`,
  ];
}

/** `usb://0403:6001?serial=A1&path=1-1.2&interface=0`. Undefined if it is written in another way. */
export function parseUsbUrl(url: string): PortMatcher | undefined {
  const [, id, query = ""] = /^usb:\/\/([0-9a-f]{4}:[0-9a-f]{4})?\/?(?:\?(.*))?$/i.exec(url) ?? [];
  const wanted = new URLSearchParams(query);
  const known = new Set(["serial", "path", "interface"]);
  if ((id === undefined && wanted.size === 0) || [...wanted.keys()].some((key) => !known.has(key))) return undefined;
  const [serial, path, number] = [wanted.get("serial"), wanted.get("path"), wanted.get("interface")];
  if (number !== null && !/^\d{1,3}$/.test(number)) return undefined;
  return {
    what: url,
    matches: ({ device, interface: own }) =>
      (id === undefined || usbId(device.vendorId, device.productId) === id.toLowerCase()) &&
      (serial === null || device.serial === serial) &&
      (path === null || device.path === path) &&
      (number === null || own === Number(number)),
  };
}

/** pyserial's `hwgrep://REGEXP[&n=N]`, for ports of USB devices. Undefined if the expression or the number is wrong. */
export function parseHwgrepUrl(url: string): PortMatcher | undefined {
  const [source = "", ...options] = url.slice("hwgrep://".length).split("&");
  const n = options.find((option) => option.startsWith("n="))?.slice(2);
  if (source === "" || (n !== undefined && !/^[1-9]\d{0,3}$/.test(n))) return undefined;
  if (options.some((option) => !/^(n=.*|skip_busy)$/.test(option))) return undefined;
  try {
    const pattern = new RegExp(source, "i");
    const which = n === undefined ? undefined : Number(n);
    return { what: url, matches: ({ words }) => words.some((word) => pattern.test(word)), which };
  } catch {
    return undefined;
  }
}

/**
 * The one port that is meant.
 * @throws DeviceOffline if it is not plugged in, with what is; also if several are meant, with all of them: a guess could be another board
 */
export function choosePort(ports: readonly UsbPort[], { what, matches, which }: PortMatcher): UsbPort {
  const found = ports.filter(matches);
  const chosen = found[which === undefined ? 0 : which - 1];
  if (chosen === undefined) {
    const there =
      ports.length === 0 ? "there is none of a USB device" : `there is ${ports.map(describePort).join(" and ")}`;
    throw new DeviceOffline(`no serial port is ${what}; ${there}`);
  }
  if (which !== undefined || found.length === 1) return chosen;
  throw new DeviceOffline(
    `several serial ports are ${what}, add what tells them apart: ${found.map(describePort).join(" and ")}`,
  );
}

/** For people: `ttyUSB0 (0403:6001 FT232R USB UART, serial A1, at 1-1.2)`. */
export function describePort({ node, device, interface: number }: UsbPort): string {
  const part = device.interfaces.length > 1 ? `, interface ${number}` : "";
  return `${node} (${describeUsb(device)}${part})`;
}

/** The URL that means this port among all: by its serial number if it has one of its own, else by where it is plugged in. */
export function usbUrl({ device, interface: number }: UsbPort, all: readonly UsbPort[]): string {
  const { vendorId, productId, serial, path } = device;
  const twins = all.filter((port) => port.device.serial === serial && port.device.path !== path);
  const query = new URLSearchParams(serial === undefined || twins.length > 0 ? { path } : { serial });
  if (all.some((port) => port.device.path === path && port.interface !== number)) query.set("interface", `${number}`);
  return `usb://${usbId(vendorId, productId)}?${query.toString()}`;
}

/** The USB device behind the path of a port, or undefined. */
export async function usbPortAt(path: string): Promise<UsbPort | undefined> {
  const node = await realpath(path).catch(() => path);
  return (await listUsbPorts()).find((port) => `/dev/${port.node}` === node);
}
