/** The status page while a medium is written, in Debian's Chromium. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { connect } from "../../agent/client/connect.ts";
import { shippedDrivers } from "../../agent/driver/catalog.ts";
import type { AnyDriver } from "../../agent/driver/driver.ts";
import { LogBus } from "../../agent/driver/log.ts";
import { driversStatus } from "../../agent/ops/exporter-status.ts";
import { serveOperations } from "../../agent/ops/http/listener.ts";
import { createMetrics } from "../../agent/ops/metrics/agent-metrics.ts";
import { imageStorageMux } from "../../boards/storage/interface.ts";
import { chromiumPath, startChromium } from "../sim/chromium.ts";
import { startExporter } from "../sim/exporter.ts";
import { loopDisk, missingLoops } from "../sim/loop.ts";
import { loopMux } from "../sim/loop-mux.ts";

const mebi = 2 ** 20;
const skip = existsSync(chromiumPath) ? missingLoops : `there is no ${chromiumPath}: apt-get install chromium`;

/** An exporter whose mux has a loop disk of 16 MiB, and its page. */
async function start(t: TestContext) {
  const disk = loopDisk(t);
  const mux = loopMux({ path: disk.path }) as unknown as AnyDriver;
  const { exporter, socketPath } = await startExporter(
    t,
    { storage: { type: "test.Mux", config: { storage_timeout: 1, storage_leeway: 0 } } },
    {
      catalog: {
        types: () => shippedDrivers.types(),
        load: (type) => (type === "test.Mux" ? Promise.resolve(mux) : shippedDrivers.load(type)),
      },
    },
  );
  const state = { exporter: "bench", config: "", state: "serving", registered: false, online: true, connections: 0 };
  const exporters = () => [{ ...state, lease: null, client: null, leaseSince: null, ...driversStatus(exporter.tree) }];
  const operated = {
    ...{ version: "1.2.3", exporters, console: () => undefined, transfers: () => [] },
    ...{ metrics: createMetrics("1.2.3", exporters), receipts: undefined, audit: undefined },
  };
  const log = new LogBus().logger({ source: "system", logger: "test" });
  const listener = await serveOperations(operated, {
    host: "127.0.0.1",
    port: 0,
    token: undefined,
    names: [],
    tls: undefined,
    log,
  });
  t.after(() => listener.close());
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = client.find("storage");
  assert.ok(node);
  return { disk, node, exporters, url: `http://127.0.0.1:${listener.port}/` };
}

test("a medium that is written shows how far it is", { skip, timeout: 60_000 }, async (t) => {
  const { disk, node, exporters, url } = await start(t);
  const context = await startChromium(t);
  const page = context.pages()[0] ?? (await context.newPage());
  await page.goto(url);
  await page.locator("#cards > li").waitFor();
  assert.equal(await page.locator("#running").isVisible(), false);

  const source = new Readable({ read() {} });
  source.push(Buffer.alloc(10 * mebi, 1));
  const writing = node.lendSource(source, async (handle) => {
    const options = { name: "nightly.raw", bytes: 12 * mebi };
    for await (const _ of node.as(imageStorageMux).write_image(handle, null, options));
  });
  const row = page.locator("#running-list > li");
  // What has come is written in pieces of 4 MiB.
  await row.getByText("8.4 MB of 12.6 MB").waitFor();
  assert.match(await row.innerText(), new RegExp(`nightly.raw to ${disk.path}\\s+bench: storage, write`));
  assert.equal(await row.locator("progress").getAttribute("value"), String(8 * mebi));
  const [flash] = exporters()[0]?.flashing ?? [];
  assert.deepEqual(
    { ...flash, seconds: 0, remainingSeconds: 0 },
    {
      ...{ driver: "storage", image: "nightly.raw", target: disk.path, step: "write" },
      ...{ movedBytes: 8 * mebi, sizeBytes: 12 * mebi, remainingSeconds: 0, seconds: 0 },
    },
  );

  source.push(Buffer.alloc(2 * mebi, 2));
  source.push(null);
  await writing;
  await row.waitFor({ state: "detached" });
  assert.deepEqual(exporters()[0]?.flashing, []);
});
