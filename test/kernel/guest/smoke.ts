// The machine has the kernel interfaces that the other files rely on; what is missing is named here.
import assert from "node:assert/strict";
import { test } from "node:test";
import { exporter, python } from "./lib/exporter.ts";
import { modprobe } from "./lib/system.ts";

const needed: [string, ...string[]][] = [
  ...[["vcan"], ["can_raw"], ["can_isotp"], ["gpio_sim"], ["i2c_stub", "chip_addr=0x48"], ["i2c_dev"], ["vhci_hcd"]],
  ...[["usb_storage"], ["usbhid"], ["cdc_acm"], ["ftdi_sio"], ["scsi_debug"], ["sdhci_pci"], ["kvaser_pci"]],
] as [string, ...string[]][];

test("the kernel has the modules for boards", async () => {
  const missing: string[] = [];
  for (const [name, ...parameters] of needed) await modprobe(name, ...parameters).catch(() => missing.push(name));
  assert.deepEqual(missing, []);
});

test("an exporter in the guest serves the typed client and the Python client", async (t) => {
  const mockPower = { type: "jumpstarter_driver_power.driver.MockPower" };
  const { node, socketPath } = await exporter(t, { power: mockPower });
  await node("power").call("on", []);
  await python(socketPath, "test/kernel/guest/smoke.py");
});
