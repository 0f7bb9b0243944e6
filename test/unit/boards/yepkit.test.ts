import assert from "node:assert/strict";
import { test } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { portState, statusReport, succeeded, switchReport } from "../../../boards/yepkit/protocol.ts";

const entry = (config: Record<string, unknown>) => ({ type: "jumpstarter_driver_yepkit.driver.Ykush", config });

test("reports are those of Yepkit's own tool", () => {
  const commands = [
    switchReport(1, true),
    switchReport(3, false),
    switchReport("all", true),
    switchReport("all", false),
  ];
  assert.deepEqual(
    [...commands, statusReport(2)].map((report) => [report.length, report[0]]),
    [0x11, 0x03, 0x1a, 0x0a, 0x22].map((command) => [64, command]),
  );
  assert.equal(succeeded(Uint8Array.of(1)), true);
  assert.equal(succeeded(new Uint8Array(0)), false);
  assert.equal(portState(Uint8Array.of(1, 0x12), 2), true);
  assert.equal(portState(Uint8Array.of(1, 0x02), 2), false);
  for (const reply of [[0, 0x12], [1, 0x13], [1, 0x22], [1], []])
    assert.equal(portState(Uint8Array.from(reply), 2), undefined);
});

test("configurations that cannot work are refused in the words of the Python driver", async (t) => {
  const refused = (config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { hub: entry(config) } }), message);
  await refused({ port: "4" }, /The ykush driver port must be any of the following values/);
  await refused({ default: "maybe" }, /The ykush driver default must be any of the following values/);
  await refused({ model: "ykushxs", port: "2" }, /YKUSH XS has no port 2/);
  const exporter = await createExporter({
    name: "test",
    export: { hub: entry({ serial: "nobody", port: "a", default: false }) },
  });
  t.after(() => exporter.close());
  assert.match(
    exporter.tree.drivers[0]?.offlineReason ?? "",
    /^failed to find ykush device with serial nobody \(checked 04d8:f2f7\)/,
  );
});
