/** What stands in a listener's way, and what too many or too stubborn clients can do to it. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createExporter } from "../../agent/session/exporter.ts";
import { serve } from "../../agent/session/server.ts";
import { scratch } from "../sim/agent.ts";
import { createRig } from "../sim/rig.ts";

test("a file that stands at the socket's path is left alone", async (t) => {
  const rig = createRig();
  const exporter = await createExporter({ name: "test", export: { rig: rig.entry }, catalog: rig.catalog });
  t.after(() => exporter.close());
  const path = join(scratch(t), "notes.txt");
  writeFileSync(path, "mine");
  await assert.rejects(serve(exporter, { unix: path }), {
    code: "E_IO",
    message: `${path} exists and is not a socket`,
  });
  assert.equal(readFileSync(path, "utf8"), "mine");
});
