import assert from "node:assert/strict";
import { test } from "node:test";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";
import { planTree, type PlannedDriver } from "../../../agent/driver/plan.ts";
import type { Entry } from "../../../agent/driver/entry.ts";

async function plan(children: Record<string, Entry>): Promise<PlannedDriver | string[]> {
  const planned = await planTree({ children }, shippedDrivers);
  return "root" in planned ? planned.root : planned.problems.map((p) => `${p.path.join(".")}: ${p.message}`);
}

const box = { children: {} };

test("a ref stands for its target, also through another ref", async () => {
  const root = await plan({ a: { children: { b: box } }, r: { ref: "a" }, s: { ref: "r.b" } });
  assert.ok(!Array.isArray(root));
  assert.equal(root.children.get("r"), root.children.get("a"));
  assert.equal(root.children.get("s"), root.children.get("a")?.children.get("b"));
});

test("refs that lead nowhere or in a circle are problems with a path", async () => {
  assert.deepEqual(await plan({ r: { ref: "x" } }), ["export.r: Proxy driver r references nonexistent driver x"]);
  assert.deepEqual(await plan({ r: { ref: "" } }), ["export.r: Proxy driver r references nonexistent driver "]);
  assert.deepEqual(await plan({ r: { ref: "s" }, s: { ref: "r" } }), [
    "export.r: Proxy driver r references nonexistent driver s",
    "export.s: Proxy driver s references nonexistent driver r",
  ]);
  assert.deepEqual(await plan({ a: { children: { up: { ref: "a" } } } }), [
    "export.a.children.up: ref of up leads back to a, which contains it",
  ]);
});

test("unknown types and wrong common config keys are named with their path", async () => {
  assert.deepEqual(await plan({ p: { type: "no_such.driver.X" } }), [
    "export.p.type: Driver 'no_such.driver.X' is not installed. Please check exporter configuration. A Python that has Jumpstarter and this class would run it.",
  ]);
  const problems = await plan({
    p: { type: "jumpstarter_driver_composite.driver.Composite", config: { uuid: "not one" } },
  });
  assert.ok(Array.isArray(problems));
  assert.match(problems[0] ?? "", /^export\.p\.config\.uuid: /);
});
