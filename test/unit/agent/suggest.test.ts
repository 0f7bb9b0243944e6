import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import fc from "fast-check";
import { parse } from "yaml";
import * as z from "zod";
import { parseConfigDocument } from "../../../agent/config/document.ts";
import { inspectConfig } from "../../../agent/config/load.ts";
import { createCatalog, shippedDrivers, type Catalog } from "../../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver, type Suggestion } from "../../../agent/driver/driver.ts";
import { collectSuggestions, suggestionsAsYaml } from "../../../agent/ops/suggest.ts";
import { power } from "../../../boards/power/interface.ts";
import { scratch } from "../../sim/agent.ts";

type Suggest = () => Promise<Suggestion[]> | Suggestion[];

/** The drivers that ship with the agent, and relays of `example.Relay`, `example.Relay2`, … that suggest this. */
function catalogWith(...suggests: Suggest[]): Catalog & { looks: number } {
  const counted = { looks: 0 };
  const relays = suggests.map((suggest, index) => {
    const types = [`example.Relay${index === 0 ? "" : index + 1}`, `example.old.Relay${index + 1}`];
    const driver = defineDriver({
      ...{ types, summary: "", implements: power },
      config: z.strictObject({ serial: z.string(), port: z.number().default(1) }),
      suggest: () => {
        counted.looks += 1;
        return suggest();
      },
      open: () => {
        throw new Error("nothing is opened");
      },
    }) as AnyDriver;
    return types.map((type) => [type, async () => driver] as const);
  });
  const shipped = ["jumpstarter_driver_composite.driver.Composite", "jumpstarter_driver_power.driver.MockPower"];
  const known = shipped.map((type) => [type, () => shippedDrivers.load(type) as Promise<AnyDriver>] as const);
  return Object.assign(counted, createCatalog(new Map([...known, ...relays.flat()])));
}

const relay = (serial: string, more: Partial<Suggestion> = {}): Suggestion => ({
  name: "power",
  entry: { type: "example.Relay", config: { serial } },
  why: `relay ${serial}, at 1-1.2`,
  ...more,
});

/** Puts an `export:` section into a configuration, and answers what `jmp-agent check` would say of it. */
async function check(t: TestContext, yaml: string, catalog: Catalog): Promise<string[]> {
  const file = join(scratch(t), "bench.yaml");
  writeFileSync(file, `metadata: {name: bench}\n${yaml}`);
  const { problems, warnings } = await inspectConfig(file, { catalog, env: {} });
  return [...problems, ...warnings].map(({ message }) => message);
}

test("what is found is printed as configuration that an agent takes, with a comment why", async (t) => {
  const catalog = catalogWith(() => [relay("0042"), relay("on"), relay("1e5: #x", { name: "vcan0.1" })]);
  const suggestions = await collectSuggestions(catalog);
  const yaml = suggestionsAsYaml(suggestions);
  assert.deepEqual(await check(t, yaml, catalog), []);
  assert.equal(catalog.looks, 1, "a driver with two types looks once");
  const { export: exported } = parse(yaml) as { export: Record<string, { config: { serial: string } }> };
  assert.deepEqual(
    Object.entries(exported).map(([name, { config }]) => [name, config.serial]),
    [
      ["power", "0042"],
      ["power-2", "on"],
      ["vcan0-1", "1e5: #x"],
    ],
  );
  const lines = yaml.split("\n");
  assert.equal(lines[lines.indexOf("  power-2:") - 1], "  # relay on, at 1-1.2");
});

test("whole trees are printed: groups, links, descriptions, help of methods", async (t) => {
  const entry = {
    children: {
      power: {
        type: "example.Relay",
        description: "the left one",
        methodsDescription: { on: "lights up" },
        config: { serial: "a", port: 2 },
        children: { lamp: { type: "jumpstarter_driver_power.driver.MockPower" } },
      },
    },
  };
  const catalog = catalogWith(() => [relay("a", { name: "board", entry })]);
  const yaml = suggestionsAsYaml(await collectSuggestions(catalog));
  assert.deepEqual(await check(t, yaml, catalog), []);
  assert.deepEqual((parse(yaml) as { export: unknown }).export, {
    board: {
      children: {
        power: {
          type: "example.Relay",
          description: "the left one",
          methods_description: { on: "lights up" },
          config: { serial: "a", port: 2 },
          children: { lamp: { type: "jumpstarter_driver_power.driver.MockPower" } },
        },
      },
    },
  });
});

test("a driver that fails, or suggests what it would refuse, takes nothing from the others", async (t) => {
  const catalog = catalogWith(
    () => [relay("good"), relay("bad", { entry: { type: "example.Relay", config: { port: "x" } } })],
    () => {
      throw new Error("no such bus\nat all");
    },
    async () => Promise.reject(new Error("later")),
  );
  const suggestions = await collectSuggestions(catalog);
  assert.deepEqual(
    suggestions.found.map(({ entry }) => entry),
    [{ type: "example.Relay", config: { serial: "good" } }],
  );
  assert.deepEqual(suggestions.failures.slice(0, 2), ["example.Relay2: no such bus\nat all", "example.Relay3: later"]);
  assert.match(suggestions.failures[2] ?? "", /^example\.Relay: suggests what it would refuse: export\.power\.config/);
  const yaml = suggestionsAsYaml(suggestions);
  assert.match(yaml, /^# example\.Relay2: no such bus at all\n# example\.Relay3: later\n/);
  assert.deepEqual(await check(t, yaml, catalog), []);
});

test("whatever a device calls itself stays in its comment", async (t) => {
  const names = ["a\n  evil: {type: x}", "b\r\nc: d", "\u2028e: f", "\u0000", "# g", ""];
  const catalog = catalogWith(() => names.map((why, index) => relay(`s${index}`, { why })));
  const yaml = suggestionsAsYaml(await collectSuggestions(catalog));
  assert.deepEqual(await check(t, yaml, catalog), []);
  assert.equal(Object.keys((parse(yaml) as { export: object }).export).length, names.length);
});

test("every text comes back as the text that it was", async () => {
  const known = fc.constantFrom(
    "on",
    "NO",
    "~",
    "null",
    "0x1f",
    "0o17",
    "017",
    "1_000",
    "12:30",
    "1:20:30.5",
    "1e5",
    ".inf",
  );
  const odd = fc.constantFrom(
    "2026-01-01",
    "=",
    "<<",
    "- a",
    "a: b",
    "a #b",
    "'",
    '"',
    "@x",
    "%y",
    "!z",
    "&a",
    "*b",
    "y",
    "n",
  );
  const serials = fc.oneof(
    known,
    odd,
    fc.string(),
    fc.string({ unit: "grapheme" }),
    fc.stringMatching(/^[-+0-9._:eExXoT ]{1,12}$/),
  );
  await fc.assert(
    fc.asyncProperty(serials, async (serial) => {
      const { found } = await collectSuggestions(catalogWith(() => [relay(serial)]));
      const document = parseConfigDocument(suggestionsAsYaml({ found, failures: [] }));
      assert.ok("value" in document, JSON.stringify(document));
      const { export: exported } = document.value as { export: { power: { config: object } } };
      assert.deepEqual(exported.power.config, { serial });
    }),
    { numRuns: 1_000 },
  );
});

test("where nothing is found, the section is empty and says so", async (t) => {
  const catalog = catalogWith(() => []);
  const yaml = suggestionsAsYaml(await collectSuggestions(catalog));
  assert.deepEqual(await check(t, yaml, catalog), []);
  assert.match(yaml, /^# nothing was found/);
});
