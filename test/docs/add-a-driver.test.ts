// The code of "How to add a driver" is compiled and driven as it stands in ARCHITECTURE.md.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { connect } from "../../agent/client/connect.ts";
import { shippedDrivers, type Catalog } from "../../agent/driver/catalog.ts";
import type { AnyDriver } from "../../agent/driver/driver.ts";
import { scratch } from "../sim/agent.ts";
import { startExporter } from "../sim/exporter.ts";

test("the driver of ARCHITECTURE.md compiles and works", async (t) => {
  // A tree of its own that borrows the project's rooms.
  const project = scratch(t);
  for (const room of ["agent", "node_modules", "package.json"]) symlinkSync(resolve(room), join(project, room));
  const options = {
    extends: resolve("tsconfig.json"),
    include: ["boards"],
    compilerOptions: { preserveSymlinks: true },
  };
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify(options));
  const page = readFileSync("ARCHITECTURE.md", "utf8");
  for (const [, path = "", code = ""] of page.matchAll(/^```ts\n\/\/ (boards\/\S+)\n(.*?)^```$/gms)) {
    mkdirSync(dirname(join(project, path)), { recursive: true });
    writeFileSync(join(project, path), code);
  }
  execFileSync(process.execPath, [resolve("node_modules/typescript/bin/tsc"), "-p", project], { stdio: "inherit" });

  const module = (await import(pathToFileURL(join(project, "boards/lamp/driver.ts")).href)) as { default: AnyDriver };
  const catalog: Catalog = {
    types: () => [...module.default.types, ...shippedDrivers.types()],
    load: (type) => (module.default.types.includes(type) ? Promise.resolve(module.default) : shippedDrivers.load(type)),
  };
  const path = join(project, "lamp");
  const config = { type: "example.driver.Lamp", config: { path } };
  const { socketPath } = await startExporter(t, { lamp: config }, { catalog });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const calls = client.root.children.get("lamp");
  assert.ok(calls);
  await assert.rejects(calls.call("on"), /there is no lamp at/);
  writeFileSync(path, "0");
  // An offline driver is tried again at most once a second.
  for (let tries = 0; tries < 50; tries += 1) {
    try {
      await calls.call("on");
      break;
    } catch {
      await new Promise((done) => setTimeout(done, 100));
    }
  }
  assert.equal(await calls.call("is_on"), true);
  const blinks: unknown[] = [];
  for await (const lit of calls.streamingCall("blink", [2])) blinks.push(lit);
  assert.deepEqual(blinks, [true, false, true, false]);
  await assert.rejects(calls.call("is_on", ["one too many"]), /positional arguments/);
});
