/** Which serial port is meant. */
import assert from "node:assert/strict";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  choosePort,
  listUsbPorts,
  parseHwgrepUrl,
  parseUsbUrl,
  usbUrl,
  type UsbPort,
} from "../../../../boards/serial/find.ts";
import { scratch } from "../../../sim/agent.ts";

interface Given {
  path: string;
  id: string;
  serial?: string;
  product?: string;
  /** Node of each interface. */
  nodes: string[];
}

/** As sysfs shows usb-serial adapters: `1-1:1.0/ttyUSB0/tty/ttyUSB0`, and CDC ACM: `1-1:1.0/tty/ttyACM0`. */
async function ports(t: Parameters<typeof scratch>[0], devices: readonly Given[]): Promise<UsbPort[]> {
  const root = scratch(t);
  mkdirSync(join(root, "bus/usb/devices"), { recursive: true });
  for (const { path, id, serial, product, nodes } of devices) {
    const folder = join(root, "devices/pci0000:00/usb1", path);
    mkdirSync(folder, { recursive: true });
    symlinkSync(folder, join(root, "bus/usb/devices", path));
    const [idVendor, idProduct] = id.split(":");
    const own = {
      idVendor,
      idProduct,
      bcdDevice: "0600",
      bDeviceClass: "00",
      busnum: "1",
      devnum: "3",
      serial,
      product,
    };
    for (const [name, text] of Object.entries(own))
      if (text !== undefined) writeFileSync(join(folder, name), `${text}\n`);
    for (const [index, node] of nodes.entries()) {
      const part = join(folder, `${path}:1.${index}`);
      mkdirSync(join(part, node.startsWith("ttyUSB") ? `${node}/tty/${node}` : `tty/${node}`), { recursive: true });
      const numbers = {
        bInterfaceNumber: `0${index}`,
        bInterfaceClass: "ff",
        bInterfaceSubClass: "ff",
        bInterfaceProtocol: "ff",
      };
      for (const [name, text] of Object.entries(numbers)) writeFileSync(join(part, name), `${text}\n`);
    }
  }
  return await listUsbPorts(root);
}

const ftdi = { id: "0403:6001", product: "FT232R USB UART" };
const devices: Given[] = [
  { ...ftdi, path: "1-1.2", serial: "A1", nodes: ["ttyUSB0"] },
  { ...ftdi, path: "1-1.3", serial: "A2", nodes: ["ttyUSB1"] },
  { id: "0403:6010", path: "1-2", serial: "D1", product: "Dual RS232", nodes: ["ttyUSB2", "ttyUSB3"] },
  { id: "1a86:7523", path: "1-3", product: "USB Serial", nodes: ["ttyUSB4"] },
  { id: "1a86:7523", path: "1-4", product: "USB Serial", nodes: ["ttyUSB5"] },
  { id: "2b23:1012", path: "1-5", serial: "D1", nodes: ["ttyACM0"] },
];

test("a port is found by ids, serial number, place and interface; never guessed", async (t) => {
  const all = await ports(t, devices);
  const find = (url: string) => {
    const matcher = parseUsbUrl(url) ?? parseHwgrepUrl(url);
    assert.ok(matcher, url);
    return choosePort(all, matcher).node;
  };
  assert.equal(find("usb://0403:6001?serial=A2"), "ttyUSB1");
  assert.equal(find("usb://?serial=A1"), "ttyUSB0");
  assert.equal(find("usb://0403:6010?interface=1"), "ttyUSB3");
  assert.equal(find("usb://1A86:7523?path=1-4"), "ttyUSB5");
  assert.equal(find("usb://2b23:1012"), "ttyACM0");
  assert.equal(find("hwgrep://ser=a1"), "ttyUSB0");
  assert.equal(find("hwgrep://VID:PID=0403:6010&n=2"), "ttyUSB3");
  assert.equal(find("hwgrep://LOCATION=1-2:1.0"), "ttyUSB2");
  assert.equal(find("hwgrep:///dev/ttyACM0"), "ttyACM0");
  assert.throws(() => find("usb://0403:6001"), {
    code: "E_DEVICE_OFFLINE",
    message:
      "several serial ports are usb://0403:6001, add what tells them apart: " +
      "ttyUSB0 (0403:6001 FT232R USB UART, serial A1, at 1-1.2) and ttyUSB1 (0403:6001 FT232R USB UART, serial A2, at 1-1.3)",
  });
  assert.throws(() => find("hwgrep://0403"), /several serial ports are hwgrep:\/\/0403/);
  assert.throws(() => find("usb://0403:6001?serial=A9"), {
    code: "E_DEVICE_OFFLINE",
    message: /^no serial port is usb:\/\/0403:6001\?serial=A9; there is ttyUSB0 \(.*\) and ttyUSB1/,
  });
  // Each is found again by the URL that is suggested for it.
  for (const port of all) assert.equal(find(usbUrl(port, all)), port.node);
});

test("URLs that mean nothing are refused", () => {
  for (const url of [
    "usb://",
    "usb://0403",
    "usb://0403:6001?bus=1",
    "usb://0403:6001?interface=x",
    "usb://xyz:6001",
  ]) {
    assert.equal(parseUsbUrl(url), undefined, url);
  }
  for (const url of ["hwgrep://", "hwgrep://(", "hwgrep://x&n=0", "hwgrep://x&m=1"]) {
    assert.equal(parseHwgrepUrl(url), undefined, url);
  }
});
