import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { pythonDrivers, pythonRelease } from "../../scripts/drivers-doc.ts";
import { clientDirectory } from "../../scripts/python-clients.mjs";

test("docs/drivers.md speaks of every driver that the Python packages declare", () => {
  const python = join(clientDirectory(pythonRelease), "bin/python");
  const found = execFileSync(python, ["test/conformance/list_drivers.py"], { encoding: "utf8" });
  assert.deepEqual(JSON.parse(found), pythonDrivers);
});
