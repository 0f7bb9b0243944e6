import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { declaredMetrics, metricsDocument } from "../../scripts/metrics-doc.ts";
import { scratch } from "../sim/agent.ts";

const page = readFileSync("docs/operations.md", "utf8");

/** The block of the page that begins so. */
function block(begins: string): string {
  const found = [...page.matchAll(/^```yaml\n(.*?)^```$/gms)].find(([, text]) => text?.startsWith(begins))?.[1];
  assert.ok(found, begins);
  return found;
}

function promtool(t: TestContext, text: string, ...words: string[]): void {
  const file = join(scratch(t), "file.yaml");
  writeFileSync(file, text);
  const { status, stdout, stderr, error } = spawnSync("promtool", [...words, file], { encoding: "utf8" });
  if (error !== undefined) return t.skip("promtool is missing: apt-get install prometheus");
  assert.equal(status, 0, stdout + stderr);
}

test("docs/metrics.md is what an agent declares", () => {
  assert.equal(readFileSync("docs/metrics.md", "utf8"), metricsDocument());
});

test("Prometheus takes the alert rules", (t) => promtool(t, block("groups:"), "check", "rules"));

test("Prometheus takes the scrape configuration", (t) => {
  promtool(t, block("scrape_configs:"), "check", "config", "--syntax-only");
});

test("the alert rules ask for what there is", () => {
  const names = new Set(
    declaredMetrics().flatMap(({ name, kind }) => (kind === "histogram" ? [name, `${name}_bucket`] : [name])),
  );
  const asked = [...block("groups:").matchAll(/\b(?:jumpstarter|process)_\w+/g)].map(([name]) => name);
  assert.ok(asked.length > 8);
  for (const name of asked) assert.ok(names.has(name), name);
});
