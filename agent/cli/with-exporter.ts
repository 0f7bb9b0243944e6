import { LogBus, severities } from "../driver/log.ts";
import { createExporter, type Exporter } from "../session/exporter.ts";
import type { Given } from "./command.ts";
import { loadExporterConfig, type exporterOptions } from "./exporter-config.ts";
import { openReceipts, type receiptOptions } from "./receipt-options.ts";
import { listenForStop } from "./signals.ts";

/**
 * Opens the drivers of a configuration for one command, without a session. Warnings go to stderr, receipts of flashes where this
 * host keeps them.
 * @param use gets a signal that Ctrl-C aborts
 * @returns what it returns, when the drivers are closed
 */
export async function withExporter<T>(
  given: Given<typeof exporterOptions & typeof receiptOptions>,
  use: (exporter: Exporter, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { config } = await loadExporterConfig(given);
  const stop = listenForStop((exitCode) => process.exit(exitCode));
  const logs = new LogBus();
  const least = severities.indexOf("WARNING");
  logs.subscribe(({ severity, logger, message }) => {
    if (severities.indexOf(severity) >= least) process.stderr.write(`${severity} ${logger}: ${message}\n`);
  });
  const { name } = config.metadata;
  const log = logs.logger({ source: "system", logger: "jmp-agent" });
  const { keepers } = await openReceipts(given, log);
  const receipts = keepers({ exporter: name, exported: () => config.export, log });
  const exporter = await createExporter({ name, export: config.export, logs, receipts });
  try {
    await exporter.tree.reset();
    return await use(exporter, stop.signal);
  } finally {
    await exporter.tree.release();
    await exporter.close();
  }
}
