// The hosts of docs/appliance.md are hosts.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { readHostConfig } from "../../appliance/first-boot/choose.ts";
import { scratch } from "../sim/agent.ts";

test("each jumpstarter.yaml of docs/appliance.md can be used", async (t) => {
  const blocks = [...readFileSync("docs/appliance.md", "utf8").matchAll(/^```yaml\n(.*?)^```$/gms)];
  assert.equal(blocks.length, 2);
  for (const [, text = ""] of blocks) {
    const folder = scratch(t);
    writeFileSync(join(folder, "jumpstarter.yaml"), text);
    const read = await readHostConfig(folder);
    assert.deepEqual("problems" in read ? read.problems : [], []);
  }
});
