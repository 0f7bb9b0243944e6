// What readers copy from the docs, an agent takes.
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inspectConfig } from "../../agent/config/load.ts";
import { shippedDrivers } from "../../agent/driver/catalog.ts";
import { scratch } from "../sim/agent.ts";

async function problemsOf(file: string): Promise<string[]> {
  const { problems, warnings } = await inspectConfig(file, { catalog: shippedDrivers, env: {} });
  return [...problems, ...warnings].map(({ path, message }) => `${path.join(".")}: ${message}`);
}

for (const file of readdirSync("examples").filter((name) => name.endsWith(".yaml"))) {
  test(`examples/${file}`, async () => assert.deepEqual(await problemsOf(join("examples", file)), []));
}

const entries = readFileSync("docs/boards.md", "utf8").matchAll(/^```yaml\n(.*?)^```$/gms);
test("the entries of docs/boards.md", async (t) => {
  const head = ["apiVersion: jumpstarter.dev/v1alpha1", "kind: ExporterConfig", "metadata: { name: board }", "export:"];
  const relay = "  relay: { type: jumpstarter_driver_power.driver.MockPower }\n";
  for (const [, text = ""] of entries) {
    const file = join(scratch(t), "board.yaml");
    const indented = text.replace(/^(?=.)/gm, "  ");
    writeFileSync(file, `${head.join("\n")}\n${indented}${/^ {2}relay:/m.test(indented) ? "" : relay}`);
    assert.deepEqual(await problemsOf(file), [], text);
  }
});
