import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { connect } from "../../agent/client/connect.ts";
import type { Entry } from "../../agent/driver/entry.ts";
import { flasher } from "../../bundles/flasher/interface.ts";
import { temporaryDirectory } from "./bundle.ts";
import { startExporter } from "./exporter.ts";

export const serial: Entry = { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } };
export const power: Entry = { type: "jumpstarter_driver_power.driver.MockPower" };
export const wires = { serial: { ref: "serial" }, power: { ref: "power" } };

/** A flasher beside its board's power and serial, driven over a session as clients do. */
export async function startFlasher(
  t: TestContext,
  config: Record<string, unknown>,
  children: Record<string, Entry> = wires,
) {
  const directory = await temporaryDirectory(t);
  const [cache_dir, tftp_dir, http_dir] = ["cache", "tftp", "http"].map((name) => join(directory, name));
  const { exporter, socketPath } = await startExporter(t, {
    serial,
    power,
    flasher: {
      type: "jumpstarter_driver_flashers.driver.BaseFlasher",
      config: { cache_dir, tftp_dir, http_dir, ...config },
      children,
    },
  });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const calls = client.find("flasher")?.as(flasher);
  assert.ok(calls);
  const staged = (name: string) => readFile(join(directory, "tftp", name));
  return { directory, exporter, client, calls, staged };
}
