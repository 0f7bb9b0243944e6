// The bytes of muxes, and how they are found; what they do is tested in test/kernel.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { planTree } from "../../../agent/driver/plan.ts";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";
import * as sdWire from "../../../boards/sdwire/protocol.ts";
import { diskBesides, findDevice, sdWire3Prints, sdWirePrints } from "../../../boards/sdwire/devices.ts";
import * as sdMux from "../../../boards/usb-sd-mux/protocol.ts";
import { findMux, listMuxes } from "../../../boards/usb-sd-mux/transport.ts";
import { fakeHost, plugUsb, type FakeUsbDevice as FakeUsb } from "../../sim/fake-host.ts";

/** @returns where /sys is */
function fakeUsb(t: TestContext, devices: readonly FakeUsb[], models: Readonly<Record<string, string>> = {}): string {
  const host = fakeHost(t);
  plugUsb(host, devices);
  for (const [sg, model] of Object.entries(models))
    host.write(`sys/class/scsi_generic/${sg}/device/model`, `${model}\n`);
  return host.sys;
}

const setup = ({ requestType, request, value, index }: sdWire.VendorRequest) => [requestType, request, value, index];

test("an SDWire is switched and asked by the requests of its chip", () => {
  assert.deepEqual(setup(sdWire.selectRequest("dut")), [0x40, 0x0b, 0x20f0, 0]);
  assert.deepEqual(setup(sdWire.selectRequest("host")), [0x40, 0x0b, 0x20f1, 0]);
  assert.deepEqual(setup(sdWire.pinsRequest), [0xc0, 0x0c, 0, 0]);
  assert.deepEqual(
    [[0xf1], [0xf0], [], [1, 0]].map((reply) => sdWire.sideOf(Uint8Array.from(reply))),
    ["host", "dut", undefined, undefined],
  );
});

test("a USB-SD-Mux is switched by the levels of its vendor's program", () => {
  assert.deepEqual(sdMux.levelsFor("classic", "off"), { cut: 0x0b, then: [] });
  assert.deepEqual(sdMux.levelsFor("classic", "host"), { cut: 0x0b, then: [0x00] });
  assert.deepEqual(sdMux.levelsFor("classic", "dut"), { cut: 0x0b, then: [0x0f, 0x0c] });
  assert.deepEqual(sdMux.levelsFor("fast", "off"), { cut: 0x0e, then: [] });
  assert.deepEqual(sdMux.levelsFor("fast", "host"), { cut: 0x0e, then: [0x00] });
  assert.deepEqual(sdMux.levelsFor("fast", "dut"), { cut: 0x0e, then: [0x0f, 0x09] });
  assert.equal(sdMux.levelsAtPowerOn("fast"), 0x09);
  for (const kind of ["classic", "fast"] as const) {
    for (const mode of ["host", "dut", "off"] as const) {
      const { cut, then } = sdMux.levelsFor(kind, mode);
      assert.equal(sdMux.modeOf(kind, then.at(-1) ?? cut), mode);
      assert.equal(sdMux.modeOf(kind, cut), "off");
    }
  }
});

test("I2C goes through the card reader as SCSI commands", () => {
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
  const { cdb, data } = sdMux.i2cWrite(0x41, [1, 0x0b]);
  assert.equal(hex(cdb), "cf23820000020000".padEnd(32, "0"));
  assert.equal(hex(data), "010b".padEnd(1024, "0"));
  assert.equal(hex(sdMux.i2cWriteRead(0x20, [3], 1)), "cf224041000101".padEnd(14, "0") + "03".padEnd(18, "0"));
  assert.equal(hex(sdMux.readCardRegister("cid")), "cf18000010".padEnd(32, "0"));
  assert.equal(hex(sdMux.readCardRegister("csd")), "cf1a000010".padEnd(32, "0"));
  assert.equal(sdMux.kindOf("sdmux HS-SD/MMC\n"), "classic");
  assert.equal(sdMux.kindOf("sdFST HS-SD/MMC\n"), "fast");
  assert.equal(sdMux.kindOf("Ultra HS-SD/MMC\n"), undefined);
});

test("a card tells who made it, its number, and how large it is", () => {
  const cid = sdMux.decodeCid(Buffer.from("035344534331364780cafebabe0171c3", "hex"));
  assert.ok(cid);
  assert.equal(
    sdMux.describeCard(cid),
    "SD card SC16G (manufacturer 0x03 SD), revision 8.0, serial 0xcafebabe, made 2023-01",
  );
  // 15,931,539,456 bytes, an SDHC card; and an old one of 2 GB: 3847 blocks of 512 times 1024 bytes.
  assert.equal(sdMux.decodeCapacityBytes(Buffer.from("400e00325b59000076b27f800a404013", "hex")), 15_931_539_456);
  assert.equal(
    sdMux.decodeCapacityBytes(Buffer.from("002600325f5a83c1be fbcfff92804083".replaceAll(" ", ""), "hex")),
    2_016_935_936,
  );
});

const hub: readonly FakeUsb[] = [
  { path: "usb1", id: "1d6b:0002" },
  { path: "1-1", id: "0424:2640" },
  { path: "1-1.1", id: "0424:4050", below: ["1-1.1:1.0/host4/target4:0:0/4:0:0:0/block/sda/sda1"] },
  { path: "1-1.2", id: "04e8:6001", product: "sd-wire", serial: "sd-wire_11" },
  { path: "1-2", id: "0781:5581", below: ["1-2:1.0/host5/target5:0:0/5:0:0:0/block/sdb"] },
];

test("the disk of an SDWire is the one of the reader on its hub", async (t) => {
  const find = async (devices: readonly FakeUsb[], wanted = {}) =>
    diskBesides(await findDevice(sdWirePrints, wanted, "sd-wire", fakeUsb(t, devices)));
  assert.equal(await find(hub), "/dev/sda");
  const other: FakeUsb = { path: "1-1.3", id: "0781:5581", below: ["1-1.3:1.0/host6/target6:0:0/6:0:0:0/block/sdc"] };
  assert.equal(await find([...hub, other]), "/dev/sda", "beside the reader");
  const withoutReader = hub.filter(({ path }) => path !== "1-1.1");
  assert.equal(await find(withoutReader), undefined);
  const two = [...withoutReader, other, { ...other, path: "1-1.4", below: ["1-1.4:1.0/host7/x/y/block/sdd"] }];
  await assert.rejects(find(two), { code: "E_DEVICE_OFFLINE", message: /has several disks: sdc and sdd$/ });
  const bare: FakeUsb[] = [
    ...hub.filter(({ path }) => !path.startsWith("1-1")),
    { path: "1-3", id: "04e8:6001", product: "sd-wire" },
  ];
  assert.equal(await find(bare), undefined, "a disk on another port of the computer is not the card");
});

test("an SDWire is found by what the Python exporter looks for, in its words", async (t) => {
  const find = async (devices: readonly FakeUsb[], wanted: { serial?: string }) =>
    (await findDevice(sdWirePrints, wanted, "sd-wire", fakeUsb(t, devices))).device.path;
  const chip: FakeUsb = { path: "1-3", id: "0403:6015", serial: "DM01" };
  assert.equal(await find([...hub, chip], {}), "1-1.2", "a bare chip is never chosen by itself");
  assert.equal(await find([...hub, chip], { serial: "DM01" }), "1-3");
  await assert.rejects(find([chip], {}), {
    message: /^failed to find sd-wire device \(checked 04e8:6001, 0403:6015\)/,
  });
  const second: FakeUsb = { path: "1-4", id: "04e8:6001", product: "sd-wire", serial: "sd-wire_12" };
  await assert.rejects(find([...hub, second], {}), { message: /^found multiple sd-wire devices; specify a serial/ });
  assert.equal(await find([...hub, second], { serial: "sd-wire_12" }), "1-4");
  const reader: FakeUsb = { path: "1-5", id: "0bda:0316", serial: "20120501030900000" };
  await assert.rejects(findDevice(sdWire3Prints, {}, "SDWire3", fakeUsb(t, [reader])), { code: "E_DEVICE_OFFLINE" });
  await findDevice(sdWire3Prints, { path: "1-5" }, "SDWire3", fakeUsb(t, [reader]));
});

test("an SDWire3 must be named, as it looks like any card reader", async () => {
  const plan = async (config: Record<string, unknown>) => {
    const planned = await planTree(
      { children: { storage: { type: "jumpstarter_agent.SDWire3", config } } },
      shippedDrivers,
    );
    return "root" in planned ? [] : planned.problems.map(({ message }) => message);
  };
  assert.match((await plan({})).join(), /serial or path is needed/);
  assert.deepEqual(await plan({ path: "1-1.2" }), []);
});

test("a USB-SD-Mux is told from other card readers by its model", async (t) => {
  const scsi = (path: string, sg: string) => [`${path}:1.0/host1/target1:0:0/1:0:0:0/scsi_generic/${sg}`];
  const devices: FakeUsb[] = [
    { path: "1-1", id: "0424:4041", serial: "000000000001", below: scsi("1-1", "sg0") },
    { path: "1-2", id: "0424:4041", serial: "000000000002", below: scsi("1-2", "sg1") },
    { path: "1-3", id: "0424:4041", serial: "000000000003", below: scsi("1-3", "sg2") },
  ];
  const models = { sg0: "sdmux HS-SD/MMC", sg1: "sdFST HS-SD/MMC", sg2: "Ultra HS-SD/MMC" };
  const root = fakeUsb(t, devices, models);
  assert.deepEqual(
    (await listMuxes(root)).map(({ device, kind, sg }) => [device.path, kind, sg]),
    [
      ["1-1", "classic", "sg0"],
      ["1-2", "fast", "sg1"],
    ],
  );
  assert.equal((await findMux({ serial: "000000000002" }, root)).kind, "fast");
  await assert.rejects(findMux({}, root), { message: /^found multiple USB-SD-Mux devices; specify a serial/ });
  await assert.rejects(findMux({ serial: "000000000003" }, root), {
    message: /^failed to find USB-SD-Mux device with serial/,
  });
  await assert.rejects(findMux({}, fakeUsb(t, devices.slice(2), models)), {
    message: /^failed to find USB-SD-Mux device \(checked 0424:4041\); 0424:4041, serial 000000000003, at 1-3 has no/,
  });
});
