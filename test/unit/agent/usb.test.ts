import assert from "node:assert/strict";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { DeviceOffline } from "../../../agent/driver/errors.ts";
import { describeUsb, listUsbDevices, nodesBelow } from "../../../agent/sys/usb-devices.ts";
import { layout, openUsb, requests } from "../../../agent/sys/usbfs.ts";
import { chooseDevice, type Fingerprint } from "../../../boards/usb/match.ts";
import { scratch } from "../../sim/agent.ts";
import { cValues, layoutExpressions, noCompiler } from "../../sim/c-values.ts";

interface FakeUsb {
  path: string;
  id: string;
  product?: string;
  serial?: string;
  /** Directories below the device. */
  below?: string[];
}

/** A tree as sysfs has it: devices nested by hub, and links to all of them in one folder. */
function fakeSysfs(t: TestContext, devices: readonly FakeUsb[]): string {
  const root = scratch(t);
  mkdirSync(join(root, "bus/usb/devices"), { recursive: true });
  const folders = new Map<string, string>();
  for (const { path, id, product, serial, below = [] } of devices) {
    const parent = [...folders].filter(
      ([hub]) => path.startsWith(`${hub}.`) || (hub === "usb1" && path.startsWith("1-")),
    );
    const folder = join(parent.at(-1)?.[1] ?? join(root, "devices/pci0000:00"), path);
    folders.set(path, folder);
    mkdirSync(folder, { recursive: true });
    const [idVendor = "", idProduct = ""] = id.split(":");
    const texts = {
      idVendor,
      idProduct,
      bcdDevice: "0100",
      bDeviceClass: "00",
      busnum: "1",
      devnum: "7",
      product,
      serial,
    };
    for (const [name, text] of Object.entries(texts)) {
      if (text !== undefined) writeFileSync(join(folder, name), `${text}\n`);
    }
    for (const each of below) mkdirSync(join(folder, each), { recursive: true });
    const first = join(folder, `${path}:1.0`);
    mkdirSync(first, { recursive: true });
    const numbers = {
      bInterfaceNumber: "00",
      bInterfaceClass: "ff",
      bInterfaceSubClass: "01",
      bInterfaceProtocol: "01",
    };
    for (const [name, text] of Object.entries(numbers)) writeFileSync(join(first, name), `${text}\n`);
    for (const name of [path, `${path}:1.0`]) {
      symlinkSync(name === path ? folder : first, join(root, "bus/usb/devices", name));
    }
  }
  return root;
}

const mux: readonly FakeUsb[] = [
  { path: "usb1", id: "1d6b:0002" },
  { path: "1-1", id: "0424:2640", below: ["1-1:1.0/ep_81"] },
  { path: "1-1.1", id: "0424:4050", below: ["1-1.1:1.0/host4/target4:0:0/4:0:0:0/block/sda/sda1"] },
  { path: "1-1.2", id: "04e8:6001", product: "sd-wire", serial: "sd-wire_11" },
  { path: "1-10", id: "0403:6001", serial: "A1", below: ["1-10:1.0/ttyUSB0/tty/ttyUSB0"] },
  { path: "1-2", id: "04e8:6001", product: "sd-wire", serial: "sd-wire_12" },
];

test("USB devices are listed with what they say of themselves, hubs first, and with their nodes", async (t) => {
  const devices = await listUsbDevices(fakeSysfs(t, mux));
  assert.deepEqual(
    devices.map(({ path }) => path),
    ["usb1", "1-1", "1-1.1", "1-1.2", "1-2", "1-10"],
  );
  const [, hub, reader, control, , serial] = devices;
  assert.ok(hub && reader && control && serial);
  assert.equal(describeUsb(control), "04e8:6001 sd-wire, serial sd-wire_11, at 1-1.2");
  assert.deepEqual([control.parentPath, control.portNumber, hub.parentPath, hub.portNumber], ["1-1", 2, "usb1", 1]);
  assert.deepEqual(
    control.interfaces.map(({ number, class: kind, subclass, protocol }) => [number, kind, subclass, protocol]),
    [[0, 255, 1, 1]],
  );
  assert.deepEqual(await nodesBelow(reader, "block"), ["sda"], "the disk, not its partition");
  assert.deepEqual(await nodesBelow(hub, "block"), [], "what hangs on a hub is not the hub's");
  assert.deepEqual(await nodesBelow(serial, "tty"), ["ttyUSB0"]);
  assert.deepEqual(await listUsbDevices(scratch(t)), [], "a host without USB");
});

const sdwire: readonly Fingerprint[] = [
  { name: "SDWire", vendorId: 0x04e8, productId: 0x6001, product: /^sd-wire$/ },
  { name: "SDWire (unprogrammed)", vendorId: 0x0403, productId: 0x6001, generic: true },
];

test("a device is chosen by serial or path, and never by guessing", async (t) => {
  const devices = await listUsbDevices(fakeSysfs(t, mux));
  const choose = (wanted: { serial?: string; path?: string }) =>
    chooseDevice(devices, sdwire, wanted, "SDWire").device.path;
  assert.equal(choose({ serial: "sd-wire_12" }), "1-2");
  assert.equal(choose({ path: "1-1.2" }), "1-1.2");
  assert.equal(choose({ serial: "A1" }), "1-10", "a bare chip only when it is asked for");
  assert.throws(
    () => choose({}),
    (error) =>
      error instanceof DeviceOffline &&
      /specify a serial: .*sd-wire_11, at 1-1.2 and .*sd-wire_12, at 1-2$/.test(error.message),
  );
  assert.throws(
    () => choose({ serial: "sd-wire_13" }),
    (error) =>
      error instanceof DeviceOffline &&
      /^failed to find SDWire device with serial sd-wire_13 \(checked 04e8:6001, 0403:6001\); there is /.test(
        error.message,
      ),
  );
});

test("a transfer's structures and numbers are those of the kernel's headers", { skip: noCompiler }, (t) => {
  const { bytes: a, ...transfer } = layout.ctrltransfer;
  const { bytes: b, ...command } = layout.ioctl;
  const { bytes: c, ...bulk } = layout.bulktransfer;
  const values = cValues(
    t,
    ["linux/usbdevice_fs.h"],
    [
      ...layoutExpressions("struct usbdevfs_ctrltransfer", {
        requestType: "bRequestType",
        request: "bRequest",
        value: "wValue",
        index: "wIndex",
        length: "wLength",
        timeout: "timeout",
        data: "data",
      }),
      ...layoutExpressions("struct usbdevfs_bulktransfer", {
        endpoint: "ep",
        length: "len",
        timeout: "timeout",
        data: "data",
      }),
      ...layoutExpressions("struct usbdevfs_ioctl", { interface: "ifno", code: "ioctl_code", data: "data" }),
      ...Object.keys(requests),
    ],
  );
  assert.deepEqual(values, [
    a,
    ...Object.values(transfer),
    c,
    ...Object.values(bulk),
    b,
    ...Object.values(command),
    ...Object.values(requests),
  ]);
});

test("a device that has gone is offline, by its name", async (t) => {
  const [device] = await listUsbDevices(
    fakeSysfs(t, [{ path: "1-2", id: "04e8:6001", product: "sd-wire", serial: "x" }]),
  );
  assert.ok(device);
  await assert.rejects(
    openUsb({ ...device, busNumber: 250 }),
    (error) => error instanceof DeviceOffline && error.message === "04e8:6001 sd-wire, serial x, at 1-2 has gone",
  );
});
