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

/** What the examples of a page may refer to. */
const around: Record<string, string> = {
  relay: "{ type: jumpstarter_driver_power.driver.MockPower }",
  console: '{ type: jumpstarter_driver_pyserial.driver.PySerial, config: { url: "loop://" } }',
};

const pages = readdirSync("docs").filter((name) => name.endsWith(".md"));
const head = ["apiVersion: jumpstarter.dev/v1alpha1", "kind: ExporterConfig", "metadata: { name: board }", "export:"];
for (const page of pages) {
  const entries = [
    ...readFileSync(join("docs", page), "utf8").matchAll(/^```yaml\n(?=[\w-]+:\n {2}type:)(.*?)^```$/gms),
  ];
  if (entries.length === 0) continue;
  test(`the entries of docs/${page}`, async (t) => {
    for (const [, text = ""] of entries) {
      // Stands for the Python classes that nobody but a lab has.
      if (text.includes("my_lab.")) continue;
      const file = join(scratch(t), "board.yaml");
      const indented = text.replace(/^(?=.)/gm, "  ");
      const missing = Object.entries(around).filter(([name]) => !new RegExp(`^ {2}${name}:`, "m").test(indented));
      writeFileSync(
        file,
        `${head.join("\n")}\n${indented}${missing.map(([name, entry]) => `  ${name}: ${entry}\n`).join("")}`,
      );
      assert.deepEqual(await problemsOf(file), [], text);
    }
  });
}
