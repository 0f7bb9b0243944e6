// SD muxes, driven by the Python client.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { python } from "./lib/exporter.ts";
import { loadModules, sdWire } from "./lib/muxes.ts";

const imageBytes = 1_000_000;

test("the Python client flashes and dumps through an SDWire", async (t) => {
  await loadModules();
  const { card, socketPath } = await sdWire(t);
  const folder = mkdtempSync(join(tmpdir(), "muxes-"));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  const image = join(folder, "image");
  writeFileSync(image, randomBytes(imageBytes));
  const said = await python(socketPath, "test/kernel/guest/muxes.py", [image, join(folder, "dump")]);
  assert.match(said, /flashed and dumped/);
  assert.equal(card.isAtHost, false, "the board has it in the end");
  assert.ok(card.medium.subarray(0, imageBytes).equals(readFileSync(image)));
});
