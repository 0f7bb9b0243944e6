import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { flashDevices } from "../../bundles/flash/devices.ts";
import { flash, type FlashOptions } from "../../bundles/flash/flash.ts";
import type { Entry } from "../driver/entry.ts";
import type { LogBus } from "../driver/log.ts";
import type { FlashReceipt, ReceiptKeeper } from "../driver/receipt.ts";
import type { SharedObjects } from "../driver/shared-objects.ts";
import { receiptText } from "../ops/receipts/format.ts";
import { ConsoleTail } from "../ops/receipts/html-report.ts";
import { createExporter } from "../session/exporter.ts";
import { writeDurably } from "../stream/durable.ts";
import { version } from "./version.ts";

/** A board that is to be flashed, and the files that tell of it. */
export interface Board {
  /** Of its exporter. */
  readonly name: string;
  readonly entries: Readonly<Record<string, Entry>>;
  /** Dotted path of the flasher. */
  readonly path: string;
  readonly receiptPath: string;
  readonly consoleLogPath: string;
}

interface NetbootOptions extends Omit<FlashOptions, "driver" | "exporter" | "versions" | "transcript"> {
  readonly logs: LogBus;
  /** What the boards of this process share. */
  readonly onHost: SharedObjects<object>;
  readonly receipts: ReceiptKeeper;
}

/** Flashes one board with the drivers of its exporter, and writes its receipt and what its console said. */
export async function flashBoardByNetboot(
  { name, entries, path, receiptPath, consoleLogPath }: Board,
  { logs, onHost, receipts, ...options }: NetbootOptions,
): Promise<{ readonly receipt: FlashReceipt; readonly consoleTail: string }> {
  const consoleLog = createWriteStream(consoleLogPath);
  await once(consoleLog, "open");
  consoleLog.on("error", (error) => process.stderr.write(`${consoleLogPath}: ${error.message}\n`));
  const tail = new ConsoleTail();
  const exporter = await createExporter({ name, export: entries, logs, onHost, receipts });
  try {
    await exporter.tree.reset();
    const devices = flashDevices(
      path,
      (at, wanted) => exporter.calls(at, wanted),
      async (source, use) => await use(exporter.resources.lend(source, null)),
    );
    const { name: image, bytes, encoding, sha256 } = options.image;
    const started = await exporter.receipts.begin({
      startedAt: new Date().toISOString(),
      driver: path,
      method: `netboot-${options.method}`,
      image: { name: image, bytes, encoding, sha256 },
    });
    const report = await flash(devices, {
      ...options,
      driver: path,
      exporter: name,
      versions: { "jumpstarter-agent": version },
      transcript: (chunk) => {
        consoleLog.write(chunk);
        tail.add(chunk);
      },
    });
    const receipt = await started.end(report);
    await writeDurably(receiptPath, receiptText(receipt));
    return { receipt, consoleTail: tail.text };
  } finally {
    await exporter.tree.release();
    await exporter.close();
    await new Promise((written) => consoleLog.end(written));
  }
}
