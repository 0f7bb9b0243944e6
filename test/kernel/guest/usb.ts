// USB devices that come and go: an adapter of QEMU's, and simulated ones on the kernel's virtual controller.
import assert from "node:assert/strict";
import { open } from "node:fs/promises";
import { test } from "node:test";
import { openUsb } from "../../../agent/sys/usbfs.ts";
import { listUsbDevices, nodesBelow } from "../../../agent/sys/usb-devices.ts";
import { cdcAcm } from "../../sim/usbip/cdc-acm.ts";
import { hid } from "../../sim/usbip/hid.ts";
import { plugUsb } from "../../sim/usbip/plug.ts";
import { serialAdapter } from "./lib/plug.ts";
import { exec, modprobe, waitFor } from "./lib/system.ts";

test("a serial adapter is plugged in, passes bytes both ways, and is another one after it was pulled out", async (t) => {
  const adapter = await serialAdapter(t, "FTDI0042");
  const tty = await adapter.plug();
  await exec("stty", "-F", tty, "raw", "-echo", "115200");
  const host = await open(tty, "r+");
  const board = await open(adapter.board, "r+");
  t.after(() => board.close());
  await host.write("to the board\n");
  const heard = Buffer.alloc(13);
  await board.read(heard, 0, heard.length);
  assert.equal(heard.toString(), "to the board\n");
  await board.write("to the host\n");
  const answered = Buffer.alloc(12);
  await host.read(answered, 0, answered.length);
  assert.equal(answered.toString(), "to the host\n");

  await adapter.unplug();
  await assert.rejects(host.write("x"), { code: "EIO" });
  await host.close();
  assert.match(await adapter.plug(), /^\/dev\/ttyUSB\d$/);
});

test("a simulated HID device gets reports and sends some", async (t) => {
  await modprobe("usbhid");
  await modprobe("hid_generic");
  const device = hid({ receive: (report) => device.send(Buffer.from(report).reverse()) });
  const { path } = await plugUsb(t, {
    ...{ vendorId: 0x16c0, productId: 0x05df, serial: "HURTM", manufacturer: "Sim", product: "HID" },
    functions: [device],
  });
  const node = await nodeOf(path, "hidraw");
  const file = await open(node, "r+");
  t.after(() => file.close());
  const report = Buffer.from([...Array(64).keys()]);
  await file.write(Buffer.concat([Buffer.from([0]), report]));
  const back = Buffer.alloc(64);
  await file.read(back, 0, 64);
  assert.ok(back.equals(report.reverse()));
});

test("a simulated serial port sees its settings and passes bytes both ways", async (t) => {
  await modprobe("cdc_acm");
  const heard: Buffer[] = [];
  const port = cdcAcm({ receive: (data) => heard.push(data) });
  const { path, unplug } = await plugUsb(t, { vendorId: 0x2b23, productId: 0x1012, functions: [port] });
  const tty = await nodeOf(path, "tty");
  await exec("stty", "-F", tty, "raw", "-echo", "57600");
  const file = await open(tty, "r+");
  t.after(() => file.close());
  await waitFor("DTR", () => port.line.dtr);
  assert.equal(port.line.baudRate, 57_600);
  port.send("hello");
  const answer = Buffer.alloc(5);
  await file.read(answer, 0, answer.length);
  assert.equal(answer.toString(), "hello");
  await file.write("and back");
  await waitFor("what was written", () => Buffer.concat(heard).toString() === "and back");
  await unplug();
  await assert.rejects(file.write("x"), { code: "EIO" });
});

test("a vendor's control requests reach a simulated device, and one that hangs is given up", async (t) => {
  const requests: number[] = [];
  const { path } = await plugUsb(t, {
    ...{ vendorId: 0x04e8, productId: 0x6001, product: "sd-wire", serial: "sd-wire_11" },
    functions: [{ interfaces: () => [{ class: 0xff, subclass: 0xff, protocol: 0xff, endpoints: [] }] }],
    control: ({ requestType, request, value }) => {
      if (requestType !== 0x40 || request !== 0x0b) return undefined;
      requests.push(value);
      return value === 0xdead ? new Promise<undefined>(() => {}) : Buffer.alloc(0);
    },
  });
  const device = (await listUsbDevices()).find((one) => one.path === path);
  assert.equal(device?.serial, "sd-wire_11");
  assert.ok(device);
  const handle = await openUsb(device);
  t.after(() => handle.close());
  const vendorOut = { requestType: 0x40, request: 0x0b, index: 0 };
  await handle.controlOut({ ...vendorOut, value: 0x20f0 }, Buffer.alloc(0), 1_000);
  assert.deepEqual(requests, [0x20f0]);
  await assert.rejects(handle.controlOut({ ...vendorOut, value: 0xdead }, Buffer.alloc(0), 200));
  await assert.rejects(handle.controlIn({ requestType: 0xc0, request: 0x0c, value: 0, index: 0 }, 1, 1_000));
});

async function nodeOf(path: string, kind: "hidraw" | "tty"): Promise<string> {
  const name = await waitFor(`${kind} of ${path}`, async () => {
    const device = (await listUsbDevices()).find((one) => one.path === path);
    return device === undefined ? undefined : (await nodesBelow(device, kind))[0];
  });
  return `/dev/${name}`;
}
