// An exporter in a process of its own, so that it can live in another network namespace, whose leases the test begins:
// `reset` on stdin is the start of a lease.
// usage: exporter-process.ts CONFIG.yaml SOCKET
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parse } from "yaml";
import type { Entry } from "../../agent/driver/entry.ts";
import { LogBus } from "../../agent/driver/log.ts";
import { createExporter } from "../../agent/session/exporter.ts";
import { serve } from "../../agent/session/server.ts";
import { createDirectSession } from "../../agent/session/session.ts";

const [, , config = "", socket = ""] = process.argv;
const document = parse(readFileSync(config, "utf8")) as { export: Record<string, Entry> };
const logs = new LogBus();
logs.subscribe(({ message }) => console.log(message));
const exporter = await createExporter({ name: "test", export: document.export, logs });
const served = await serve(createDirectSession(exporter, {}), { unix: socket });
console.log(`serves at ${socket}`);
const lines = createInterface({ input: process.stdin });
process.once("SIGTERM", () => lines.close());
for await (const line of lines) {
  if (line === "reset") await exporter.tree.reset();
  console.log(`done: ${line}`);
}
await served.close(0);
await exporter.close();
process.stdin.destroy();
