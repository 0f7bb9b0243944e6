/** An exporter that ends while its drivers are busy, or do not end themselves. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import * as z from "zod";
import { closeAll } from "../../agent/host/direct.ts";
import { createCatalog } from "../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver } from "../../agent/driver/driver.ts";
import { DeviceOffline } from "../../agent/driver/errors.ts";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { compositeType } from "../../agent/driver/plan.ts";
import { createExporter } from "../../agent/session/exporter.ts";
import { serve } from "../../agent/session/server.ts";
import { createDirectSession } from "../../agent/session/session.ts";
import composite from "../../boards/composite/driver.ts";
import { scratch } from "../sim/agent.ts";
import { failure, WireClient } from "../sim/wire.ts";

const hangs = defineInterface({
  driverType: "other",
  client: "hangs.client.HangsClient",
  methods: { hang: unary({ args: [], result: z.null() }) },
});
const never = new Promise<null>(() => {});

function catalogOf(open: () => unknown) {
  const driver = defineDriver({
    types: ["hangs.driver.Hangs"],
    summary: "For tests.",
    implements: hangs,
    config: z.object({}),
    open: open as never,
  }) as unknown as AnyDriver;
  return createCatalog(
    new Map<string, () => Promise<AnyDriver>>([
      ["hangs.driver.Hangs", async () => driver],
      [compositeType, async () => composite],
    ]),
  );
}
const drivers = { device: { type: "hangs.driver.Hangs" } };

test("a call and a close that never end do not hold up the end", async (t) => {
  const catalog = catalogOf(() => ({ methods: { hang: () => never }, close: () => never }));
  const exporter = await createExporter({ name: "test", export: drivers, catalog });
  const path = join(scratch(t), "s");
  const served = await serve(createDirectSession(exporter), { unix: path });
  const client = new WireClient(t, path);
  const hanging = failure(client.call(await client.uuid("device"), "hang"));
  const errors: string[] = [];
  await closeAll(exporter, [served], { error: (text) => errors.push(text) }, 2_000);
  assert.deepEqual(errors, ["drivers did not close within 2 s"]);
  assert.match(await hanging, /^\d+ /);
});

test("a device that comes back while the exporter closes is closed again", async () => {
  let opens = 0;
  let closes = 0;
  let finish = () => {};
  const gate = new Promise<void>((resolve) => (finish = resolve));
  const catalog = catalogOf(async () => {
    opens += 1;
    if (opens === 1) throw new DeviceOffline("not plugged in");
    await gate;
    return { methods: { hang: () => null }, close: () => void (closes += 1) };
  });
  const exporter = await createExporter({ name: "test", export: drivers, catalog });
  await new Promise((resolve) => setTimeout(resolve, 1_100)); // an offline driver is tried again once a second
  const call = assert.rejects(exporter.calls("device", hangs).hang(), { code: "E_CANCELLED" });
  await exporter.close();
  finish();
  await call;
  assert.deepEqual([opens, closes], [2, 1]);
});
