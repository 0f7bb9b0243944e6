import assert from "node:assert/strict";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as z from "zod";
import { createCatalog, type Catalog } from "../../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver } from "../../../agent/driver/driver.ts";
import { HotPlug } from "../../../agent/driver/hot-plug.ts";
import { SharedObjects } from "../../../agent/driver/shared-objects.ts";
import { DeviceOffline } from "../../../agent/driver/errors.ts";
import { compositeType } from "../../../agent/driver/plan.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import composite from "../../../boards/composite/driver.ts";
import { power } from "../../../boards/power/interface.ts";
import { scratch } from "../../sim/agent.ts";
import { eventually } from "../../sim/rig.ts";

const log = { debug() {}, info() {}, warn() {}, error() {} };

/** A switch that is there while a file is. */
function plugs(events: string[]): Catalog {
  const plug = defineDriver({
    types: ["test.Plug"],
    summary: "A switch that is there while a file is.",
    implements: power,
    hotPlugged: true,
    config: z.strictObject({ path: z.string() }),
    open({ config: { path }, path: name }) {
      const check = () => {
        if (!existsSync(path)) throw new DeviceOffline(`no switch at ${path}`);
      };
      check();
      events.push(`open ${name}`);
      return {
        methods: { on: () => {}, off: () => {}, read: { unsupported: "no meter" } },
        check,
        close: () => void events.push(`close ${name}`),
      };
    },
  });
  const load = (driver: unknown) => () => Promise.resolve(driver as AnyDriver);
  return createCatalog(
    new Map([
      ["test.Plug", load(plug)],
      [compositeType, load(composite)],
    ]),
  );
}

test("a driver whose device is unplugged goes offline alone, and comes back by itself", async (t) => {
  const directory = scratch(t);
  const [first, second] = [join(directory, "first"), join(directory, "second")];
  writeFileSync(first, "");
  writeFileSync(second, "");
  const events: string[] = [];
  // The kernel's part is played by the test.
  let plugged = () => {};
  const onHost = new SharedObjects<object>();
  onHost.get("hot plug", t, () => {
    return new HotPlug(log, (onChange) => {
      plugged = onChange;
      return Promise.resolve(() => {});
    });
  });
  const entry = (path: string) => ({ type: "test.Plug", config: { path } });
  const exporter = await createExporter({
    name: "test",
    catalog: plugs(events),
    onHost,
    export: { first: entry(first), second: entry(second) },
  });
  t.after(() => exporter.close());
  const offline = () =>
    exporter.tree.drivers.flatMap(({ planned, offlineReason }) => (offlineReason === undefined ? [] : [planned.path]));
  assert.deepEqual(events, ["open first", "open second"]);
  rmSync(first);
  plugged();
  await eventually("only the first is offline", () => offline().join() === "first");
  assert.deepEqual(events.splice(0), ["open first", "open second", "close first"]);
  writeFileSync(first, "");
  const offlineSince = performance.now();
  plugged();
  await eventually("nothing is offline", () => offline().length === 0);
  assert.deepEqual(events.splice(0), ["open first"], "nobody called it, and the other one was left alone");
  assert.ok(performance.now() - offlineSince < 1_500, "by the event, not by the look that comes every two seconds");

  // A device that answers only some time after its event is looked for again.
  rmSync(second);
  plugged();
  await eventually("only the second is offline", () => offline().join() === "second");
  writeFileSync(second, "");
  await eventually("nothing is offline", () => offline().length === 0);
  assert.deepEqual(events.splice(0), ["close second", "open second"]);
  await exporter.close();
  assert.deepEqual(events, ["close second", "close first"]);
});
