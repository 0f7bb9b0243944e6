import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../../../../agent/client/connect.ts";
import { startExporter } from "../../../sim/exporter.ts";

const [gpiod, pins] = ["jumpstarter_driver_gpiod.driver.", "jumpstarter_driver_raspberrypi.driver."];

test("clients are told the classes that they have, and a missing chip is named", async (t) => {
  // A number that no machine has.
  const device = "/dev/gpiochip250";
  const { socketPath, exporter } = await startExporter(t, {
    out: { type: `${gpiod}DigitalOutput`, config: { line: 1, device } },
    in: { type: `${gpiod}DigitalInput`, config: { line: 1, device } },
    power: { type: `${gpiod}PowerSwitch`, config: { line: 1, device } },
    pin: { type: `${pins}DigitalOutput`, config: { pin: 17, device } },
    old: { type: `${pins}DigitalOutput`, config: { pin: 17, device, old_client: true } },
    "old-in": { type: `${pins}DigitalInput`, config: { pin: "GPIO4", device, old_client: true } },
    "old-power": { type: `${pins}PowerSwitch`, config: { pin: "GPIO4", device, old_client: true } },
  });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const labels = Object.fromEntries([...client.root.children.values()].map((node) => [node.name, node.clientClass]));
  assert.deepEqual(labels, {
    out: "jumpstarter_driver_gpiod.client.DigitalOutputClient",
    in: "jumpstarter_driver_gpiod.client.DigitalInputClient",
    power: "jumpstarter_driver_power.client.PowerClient",
    pin: "jumpstarter_driver_gpiod.client.DigitalOutputClient",
    old: "jumpstarter_driver_raspberrypi.client.DigitalOutputClient",
    "old-in": "jumpstarter_driver_raspberrypi.client.DigitalInputClient",
    "old-power": "jumpstarter_driver_power.client.PowerClient",
  });
  for (const { planned, offlineReason } of exporter.tree.drivers) {
    if (planned.name !== "") assert.equal(offlineReason, `there is no GPIO chip ${device}`);
  }
});
