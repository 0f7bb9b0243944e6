import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { driversDocument } from "../../scripts/drivers-doc.ts";

test("docs/drivers.md is what the catalog says: no driver of the Python packages is unlisted, each of ours has its tests", async () => {
  const document = await driversDocument();
  assert.equal(readFileSync("docs/drivers.md", "utf8"), document);
  const rows = document.split("\n").filter((line) => line.startsWith("| `jumpstarter"));
  assert.ok(rows.length > 90);
  for (const row of rows) {
    const [, type, here, why, tests] = row.split(/(?<!\\)\|/).map((cell) => cell.trim());
    assert.match(here ?? "", /^(native|side-car|no driver)$/, type);
    assert.notEqual(why, "", type);
    if (here === "native" && !type?.includes("Proxy")) assert.notEqual(tests, "", type);
  }
});
