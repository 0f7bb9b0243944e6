// `jmp-agent flash --storage` on a loop device, in a process of its own that can be killed.
// usage: flash-storage-process.ts DEVICE IMAGE RECEIPTS
import { shippedDrivers } from "../../agent/driver/catalog.ts";
import type { AnyDriver } from "../../agent/driver/driver.ts";
import { openReceipts } from "../../agent/cli/receipt-options.ts";
import { flashStorage } from "../../agent/cli/flash-storage.ts";
import { createExporter } from "../../agent/session/exporter.ts";
import { loopMux } from "./loop-mux.ts";

const [, , device = "", image = "", receipts = ""] = process.argv;
const log = { warn: (message: string) => console.log(message) };
const entries = { storage: { type: "test.Mux", config: { storage_leeway: 0 } } };
const mux = loopMux({ path: device }) as unknown as AnyDriver;
const { keepers } = await openReceipts({ receipts }, log);
const exporter = await createExporter({
  name: "bench",
  export: entries,
  catalog: {
    types: () => shippedDrivers.types(),
    load: (type) => (type === "test.Mux" ? Promise.resolve(mux) : shippedDrivers.load(type)),
  },
  receipts: keepers({ exporter: "bench", exported: () => entries, log }),
});
const options = { storage: "storage", receipt: `${receipts}.json` };
process.exitCode = await flashStorage(exporter, image, options, new AbortController().signal);
await exporter.close();
