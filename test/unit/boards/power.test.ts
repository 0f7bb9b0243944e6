import assert from "node:assert/strict";
import { test } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { power } from "../../../boards/power/interface.ts";

for (const type of [
  "jumpstarter_driver_power.driver.MockPower",
  "jumpstarter_driver_power.driver.SyncMockPower",
  "jumpstarter.drivers.power.driver.MockPower",
]) {
  test(`${type}: logs what it does, and has a meter with two readings`, async (t) => {
    const exporter = await createExporter({ name: "test", export: { p: { type, config: { old_key: 1 } } } });
    t.after(() => exporter.close());
    const said: string[] = [];
    exporter.logs.subscribe(({ source, message, driverType }) => said.push(`${source} ${driverType} ${message}`));
    const calls = exporter.calls("p", power);
    assert.equal(await calls.on(), null);
    assert.equal(await calls.off(), null);
    assert.deepEqual(said, ["driver power power on", "driver power power off"]);
    const readings = [];
    for await (const reading of calls.read()) readings.push(reading);
    assert.deepEqual(readings, [
      { voltage: 0, current: 0 },
      { voltage: 5, current: 2 },
    ]);
  });
}
