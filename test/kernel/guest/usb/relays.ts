import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { listUsbDevices, type UsbDevice } from "../../../../agent/sys/usb-devices.ts";
import { noyitoRelay } from "../../../../boards/noyito/interface.ts";
import { power } from "../../../../boards/power/interface.ts";
import { missingClient } from "../../../sim/python-client.ts";
import { type DutlinkState } from "../../../sim/usbip/dutlink.ts";
import { type NoyitoHidState } from "../../../sim/usbip/noyito-hid.ts";
import { type YkushState } from "../../../sim/usbip/ykush.ts";
import { exporter, python } from "../lib/exporter.ts";
import { qmp } from "../lib/host.ts";
import { modprobe, waitFor } from "../lib/system.ts";
import { startLab, type Lab } from "../lib/usb-lab.ts";
import { loadUsbDrivers, usbNodeOf } from "../lib/usb-nodes.ts";

const type = (name: string) => `jumpstarter_driver_${name}`;
const ykushType = type("yepkit.driver.Ykush");

test("YKUSH: ports are switched and read back; of two without a serial none is taken", async (t) => {
  await loadUsbDrivers();
  const lab = startLab(t);
  await lab.plug("ykush1");
  await lab.plug("ykush2");
  const state = (device: string) => lab.state<YkushState>(device);
  const entry = (config: Record<string, unknown>) => ({ type: ykushType, config });
  const guest = await exporter(t, {
    one: entry({ serial: "YK1", port: "1" }),
    all: entry({ serial: "YK1", port: "all", default: "keep" }),
    other: entry({ serial: "YK2", port: 3, default: "on" }),
    any: entry({}),
  });
  const calls = (name: string) => guest.node(name).as(power);
  await calls("one").off();
  assert.deepEqual((await state("ykush1")).ports, [false, true, true]);
  assert.deepEqual((await state("ykush1")).commands.slice(-2), [0x01, 0x21]);
  await Promise.all([calls("all").off(), calls("one").on(), calls("other").off()]);
  assert.deepEqual((await state("ykush1")).ports, [true, false, false]);
  assert.deepEqual((await state("ykush2")).ports, [true, true, false]);
  await assert.rejects(calls("any").on(), /found multiple ykush devices; specify a serial: .*YK1.* and .*YK2/);

  await lab.change("ykush1", { stuck: [2] });
  await assert.rejects(calls("all").on(), /leaves port 2 off/);
  await lab.change("ykush1", { refuses: true });
  await assert.rejects(calls("one").on(), /refuses to switch port 1 on/);

  await twins(t, lab);
});

/** Two equal hubs that only their place tells apart. */
async function twins(t: TestContext, lab: Lab): Promise<void> {
  await lab.unplug("ykush1");
  await lab.unplug("ykush2");
  const path = await lab.plug("twin1");
  const second = await lab.plug("twin2");
  const guest = await exporter(t, {
    guess: { type: ykushType, config: { port: "2" } },
    placed: { type: ykushType, config: { port: "2", path: second } },
  });
  await assert.rejects(guest.node("guess").as(power).off(), (error: Error) => {
    assert.match(error.message, /found multiple ykush devices; specify a path: /);
    assert.ok(error.message.includes(`at ${path}`) && error.message.includes(`at ${second}`), error.message);
    return true;
  });
  await guest.node("placed").as(power).off();
  assert.deepEqual((await lab.state<YkushState>("twin1")).ports, [true, true, true]);
  assert.deepEqual((await lab.state<YkushState>("twin2")).ports, [true, false, true]);
}

test("NOYITO: channels of a HID board", async (t) => {
  await loadUsbDrivers();
  const lab = startLab(t);
  await usbNodeOf(await lab.plug("noyito"), "hidraw");
  const entry = (config: Record<string, unknown>) => ({
    type: type("noyito_relay.driver.NoyitoPowerHID"),
    config: { num_channels: 8, ...config },
  });
  const guest = await exporter(t, {
    eight: entry({ channel: 8, verify: true }),
    one: entry({ channel: 1 }),
    all: entry({ all_channels: true }),
  });
  const calls = (name: string) => guest.node(name).as(noyitoRelay);
  await calls("eight").on();
  assert.deepEqual(await Promise.all(["eight", "one", "all"].map((name) => calls(name).status())), [
    "on",
    "off",
    "partial",
  ]);
  await calls("all").on();
  assert.equal(await calls("all").status(), "on");
  const { relays, commands } = await lab.state<NoyitoHidState>("noyito");
  assert.ok(relays.every(Boolean));
  assert.equal(commands[0], "a00801a9");
});

test("the Python clients drive all of them", { skip: missingClient("0.9.0") }, async (t) => {
  await loadUsbDrivers();
  const lab = startLab(t);
  const place = await lab.plug("dutlink");
  await usbNodeOf(place, "tty");
  await lab.plug("ykush1");
  await usbNodeOf(await lab.plug("noyito"), "hidraw");
  await lab.change("dutlink", { meter: "2.55W 5.10V 0.50A" });
  const { socketPath } = await exporter(t, {
    board: { type: type("dutlink.driver.Dutlink"), config: { storage_device: "/dev/disk/by-path/none" } },
    hub: { type: ykushType, config: { port: "2" } },
    relay: { type: type("noyito_relay.driver.NoyitoPowerHID"), config: { num_channels: 8, channel: 5 } },
  });
  assert.match(await python(socketPath, "test/conformance/drive_relays.py", ["usb"]), /passed usb/);
  assert.deepEqual((await lab.state<DutlinkState>("dutlink")).actions, ["on", "rescue", "off"]);
  assert.deepEqual((await lab.state<YkushState>("ykush1")).ports, [true, true, true]);
});

test("a port of a hub loses its power and gets it back", async (t) => {
  await modprobe("xhci_pci");
  await qmp("device_add", { driver: "usb-hub", bus: "usb.0", id: "switching", "port-power": true });
  const path = await waitFor("the hub", async () => (await listUsbDevices()).find(isHub)?.path);
  const port = path.slice(path.indexOf("-") + 1);
  await qmp("device_add", { driver: "usb-kbd", bus: "usb.0", port: `${port}.2`, id: "keyboard" });
  t.after(async () => {
    await qmp("device_del", { id: "keyboard" });
    await qmp("device_del", { id: "switching" });
  });
  const isThere = async () => (await listUsbDevices()).some((device) => device.path === `${path}.2`);
  await waitFor("the keyboard", isThere);

  const hubPort = (config: Record<string, unknown>) => ({
    type: "jumpstarter_agent.HubPortPower",
    config: { hub: path, ...config },
  });
  const guest = await exporter(t, {
    second: hubPort({ port: 2 }),
    ninth: hubPort({ port: 9 }),
    elsewhere: hubPort({ hub: "9-9", port: 1 }),
  });
  await guest.node("second").as(power).off();
  await waitFor("the keyboard has gone", async () => !(await isThere()));
  await guest.node("second").as(power).on();
  await waitFor("the keyboard is back", isThere);
  await assert.rejects(guest.node("ninth").as(power).on(), /has 8 ports, and no port 9/);
  await assert.rejects(guest.node("elsewhere").as(power).on(), /failed to find USB hub at 9-9; there is /);
});

test("a hub that cannot switch its ports is refused, unless it is told to try", async (t) => {
  await modprobe("xhci_pci");
  await qmp("device_add", { driver: "usb-hub", bus: "usb.0", id: "plain" });
  t.after(() => qmp("device_del", { id: "plain" }));
  const path = await waitFor("the hub", async () => (await listUsbDevices()).find(isHub)?.path);
  const guest = await exporter(t, {
    port: { type: "jumpstarter_agent.HubPortPower", config: { hub: path, port: 1 } },
  });
  await assert.rejects(guest.node("port").as(power).off(), /cannot switch the power of its ports/);
});

/** The hub that QEMU plays. */
const isHub = ({ vendorId, productId }: UsbDevice) => vendorId === 0x0409 && productId === 0x55aa;
