import assert from "node:assert/strict";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { DeviceOffline } from "../../../agent/driver/errors.ts";
import type { UsbDevice } from "../../../agent/sys/usb-devices.ts";
import { chooseHub, halvesOf, isOn, switchPort } from "../../../boards/hub-port/ports.ts";
import { hasPower, parseHubDescriptor } from "../../../boards/hub-port/protocol.ts";
import { scratch } from "../../sim/agent.ts";

function hub(sysfs: string, path: string, serial?: string): UsbDevice {
  return {
    ...{ path, sysfs, serial, vendorId: 0x2109, productId: 0x0813, version: 0x9011, deviceClass: 9 },
    ...{
      manufacturer: undefined,
      product: undefined,
      busNumber: Number(path.replace(/\D.*|usb/, "")),
      deviceNumber: 2,
    },
    ...{ parentPath: undefined, portNumber: undefined, interfaces: [] },
  };
}

test("a hub is chosen by its place or its serial number", () => {
  const hubs = [hub("/a", "1-1", "H1"), hub("/b", "1-2", "H2"), hub("/c", "2-2", "H2")];
  assert.equal(chooseHub(hubs, { hub: "1-2" }).path, "1-2");
  assert.equal(chooseHub(hubs, { serial: "H1" }).path, "1-1");
  const offline = (message: RegExp) => (error: unknown) =>
    error instanceof DeviceOffline && message.test(error.message);
  assert.throws(() => chooseHub(hubs, { serial: "H2" }), offline(/found multiple USB hubs.*1-2 and .*2-2/));
  assert.throws(() => chooseHub(hubs, { hub: "3-1" }), offline(/failed to find USB hub at 3-1; there is 2109:0813/));
});

test("both halves of a socket are found and switched through sysfs", async (t) => {
  const root = scratch(t);
  const [usb2, usb3] = [join(root, "1-1"), join(root, "2-1")];
  const ports = [join(usb2, "1-1:1.0/1-1-port3"), join(usb3, "2-1:1.0/2-1-port3")] as const;
  for (const port of ports) {
    mkdirSync(port, { recursive: true });
    writeFileSync(join(port, "disable"), "0\n");
  }
  symlinkSync(ports[1], join(ports[0], "peer"));
  const [first, second] = [hub(usb2, "1-1"), hub(usb3, "2-1")];
  const halves = await halvesOf([first, second], first, 3);
  assert.deepEqual(
    halves.map((half) => [half.hub.path, half.port]),
    [
      ["1-1", 3],
      ["2-1", 3],
    ],
  );
  for (const half of halves) {
    assert.equal(await isOn(half), true);
    await switchPort(half, false);
    assert.equal(await isOn(half), false);
  }
  assert.deepEqual(
    ports.map((port) => readFileSync(join(port, "disable"), "utf8")),
    ["1", "1"],
  );
  assert.deepEqual((await halvesOf([first], first, 1)).length, 1, "a hub without another half");
});

test("the port of a root hub has a name of its own", async () => {
  const [half] = await halvesOf([], { ...hub("/sys/devices/usb1", "usb1"), busNumber: 1 }, 2);
  assert.equal(half?.sysfs, "/sys/devices/usb1/1-0:1.0/usb1-port2");
});

test("what hubs say of themselves and their ports", () => {
  assert.deepEqual(parseHubDescriptor(Uint8Array.of(9, 0x29, 4, 0x09, 0)), { ports: 4, switching: "individual" });
  assert.deepEqual(parseHubDescriptor(Uint8Array.of(12, 0x2a, 7, 0x00, 0)), { ports: 7, switching: "ganged" });
  assert.deepEqual(parseHubDescriptor(Uint8Array.of(9, 0x29, 4, 0x0a, 0)), { ports: 4, switching: "none" });
  assert.equal(parseHubDescriptor(Uint8Array.of(9, 0x01, 4, 0x09)), undefined);
  assert.equal(hasPower(Uint8Array.of(0x03, 0x01, 0, 0), false), true);
  assert.equal(hasPower(Uint8Array.of(0x03, 0x01, 0, 0), true), false, "USB 3 has it one bit further up");
  assert.equal(hasPower(Uint8Array.of(0x03, 0x02, 0, 0), true), true);
});
