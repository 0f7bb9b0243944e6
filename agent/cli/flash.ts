import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { baseFlashers, withBundle } from "../../bundles/flash/configured.ts";
import type { BoardAddress } from "../../bundles/flash/bootloader.ts";
import { flashDevices } from "../../bundles/flash/devices.ts";
import { flash } from "../../bundles/flash/flash.ts";
import { openImageSource } from "../../bundles/flash/image-source.ts";
import { timelineText } from "../../bundles/flash/receipt.ts";
import { writeDurably } from "../../agent/stream/durable.ts";
import { AgentError } from "../driver/errors.ts";
import { LogBus, severities } from "../driver/log.ts";
import type { FlashReceipt } from "../driver/receipt.ts";
import { receiptText } from "../ops/receipts/format.ts";
import { ConsoleTail, htmlReport } from "../ops/receipts/html-report.ts";
import { createExporter } from "../session/exporter.ts";
import { defineCommand } from "./command.ts";
import { exporterOptions, loadExporterConfig } from "./exporter-config.ts";
import { flashStorage, storageOptions } from "./flash-storage.ts";
import { receiptOptions, openReceipts } from "./receipt-options.ts";
import { listenForStop } from "./signals.ts";
import { showSteps } from "./flash-steps.ts";
import { version } from "./version.ts";
import { withExporter } from "./with-exporter.ts";

export const flashBoard = defineCommand({
  name: "flash",
  summary:
    "Flash a board on this host, by netboot or through a storage mux: no client needed. The disk is read back and compared.",
  words: { usage: "IMAGE", least: 1, most: 1 },
  options: {
    ...exporterOptions,
    flasher: { type: "string", value: "NAME", help: "dotted path of the flasher driver (the only one)" },
    target: {
      type: "string",
      value: "TARGET",
      help: "a target of the bundle, or a device of the board (the configured one)",
    },
    bundle: {
      type: "string",
      value: "REF",
      help: "another bundle than the configured one: HOST/NAME:TAG, oci-layout:DIR or file:DIR",
    },
    method: {
      type: "string",
      value: "METHOD",
      choices: ["shell", "fls"],
      help: "what writes the disk: the bundle's own tools, or fls (shell)",
    },
    receipt: { type: "string", value: "PATH", help: "where the receipt is written as well (receipt.json)" },
    html: { type: "string", value: "PATH", help: "write a page with the receipt and a picture of the steps" },
    ...receiptOptions,
    "console-log": { type: "string", value: "PATH", help: "where all the board says is written (flash-console.log)" },
    ip: { type: "string", value: "ADDRESS/PREFIX", help: "the board's address, where there is no DHCP server" },
    gateway: { type: "string", value: "ADDRESS", help: "the board's gateway, with --ip" },
    "off-time": { type: "string", value: "SECONDS", help: "how long the board is without power first (2)" },
    "leave-on": { type: "boolean", help: "do not switch the board off at the end" },
    ...storageOptions,
  },
  notes: `
IMAGE is raw or compressed with gzip, xz, bzip2 or zstd; its first bytes tell. The exit code is 0 only if the disk was
read back and holds the image.

Example:
  jmp-agent flash image.raw.xz --exporter-config bench.yaml --target emmc`,

  async run(given, [imagePath = ""]) {
    if (given.storage !== undefined) {
      return await withExporter(given, (exporter, signal) => flashStorage(exporter, imagePath, given, signal));
    }
    const address = boardAddress(given.ip, given.gateway);
    const offMs = seconds(given["off-time"]);
    const image = await openImageSource(imagePath, { signal: new AbortController().signal });
    const { config } = await loadExporterConfig(given);
    const path = chooseFlasher(baseFlashers(config.export), given.flasher);
    const entries = given.bundle === undefined ? config.export : withBundle(config.export, path, given.bundle);

    const stop = listenForStop((exitCode) => process.exit(exitCode));
    const logs = new LogBus();
    showWarnings(logs);
    const log = logs.logger({ source: "system", logger: "jmp-agent" });
    const { keepers } = await openReceipts(given, log);
    const name = config.metadata.name;
    const consoleLogPath = given["console-log"] ?? "flash-console.log";
    const consoleLog = createWriteStream(consoleLogPath);
    await once(consoleLog, "open");
    consoleLog.on("error", (error) => process.stderr.write(`${consoleLogPath}: ${error.message}\n`));
    const tail = new ConsoleTail();
    const receipts = keepers({ exporter: name, exported: () => entries, log });
    const exporter = await createExporter({ name, export: entries, logs, receipts });
    try {
      await exporter.tree.reset();
      const devices = flashDevices(
        path,
        (at, wanted) => exporter.calls(at, wanted),
        async (source, use) => await use(exporter.resources.lend(source, null)),
      );
      const started = await exporter.receipts.begin({
        startedAt: new Date().toISOString(),
        driver: path,
        method: given.method === "fls" ? "netboot-fls" : "netboot-shell",
        image: { name: image.name, ...(image.bytes !== undefined && { bytes: image.bytes }), encoding: image.encoding },
      });
      const report = await flash(devices, {
        image,
        driver: path,
        exporter: name,
        method: given.method === "fls" ? "fls" : "shell",
        target: given.target,
        address,
        offMs,
        leavePowerOn: given["leave-on"],
        versions: { "jumpstarter-agent": version },
        transcript: (chunk) => {
          consoleLog.write(chunk);
          tail.add(chunk);
        },
        events: showSteps(),
        signal: stop.signal,
      });
      const receipt = await started.end(report);
      await writeDurably(given.receipt ?? "receipt.json", receiptText(receipt));
      if (given.html !== undefined) await writeDurably(given.html, htmlReport([{ receipt, consoleTail: tail.text }]));
      return showReceipt(receipt, consoleLogPath);
    } finally {
      await exporter.tree.release();
      await exporter.close();
      await new Promise((written) => consoleLog.end(written));
    }
  },
});

function chooseFlasher(found: readonly string[], wanted: string | undefined): string {
  const [only, ...others] = found;
  if (wanted !== undefined && found.includes(wanted)) return wanted;
  if (only === undefined) throw new AgentError("E_CONFIG", "this exporter has no flasher");
  if (wanted === undefined && others.length === 0) return only;
  const names = found.join(", ");
  const problem = wanted === undefined ? "there are several flashers" : `there is no flasher ${wanted}`;
  throw new AgentError("E_USAGE", `${problem}: --flasher is one of ${names}`);
}

function showWarnings(logs: LogBus): void {
  const least = severities.indexOf("WARNING");
  logs.subscribe(({ severity, logger, message }) => {
    if (severities.indexOf(severity) >= least) process.stderr.write(`${severity} ${logger}: ${message}\n`);
  });
}

function showReceipt(receipt: FlashReceipt, consoleLog: string): number {
  process.stdout.write(timelineText(receipt.steps));
  if (receipt.failure !== undefined) {
    const { step, message } = receipt.failure;
    process.stderr.write(`jmp-agent flash: ${step}: ${message}\nthe console log is in ${consoleLog}\n`);
    return 1;
  }
  const { bytes = 0, sha256 = "" } = receipt.image.content ?? {};
  process.stdout.write(`${receipt.target?.path ?? ""} holds the image: ${bytes} bytes read back, sha256 ${sha256}\n`);
  return 0;
}

function boardAddress(ip: string | undefined, gateway: string | undefined): BoardAddress | undefined {
  if (ip === undefined) {
    if (gateway === undefined) return undefined;
    throw new AgentError("E_USAGE", "--gateway needs --ip");
  }
  const [, address = "", prefix = ""] = /^(\d+\.\d+\.\d+\.\d+)\/(\d+)$/.exec(ip) ?? [];
  const bits = Number(prefix);
  if (address === "" || bits < 1 || bits > 32) throw new AgentError("E_USAGE", "--ip must be like 192.168.1.20/24");
  const mask = (0xffffffff << (32 - bits)) >>> 0;
  const netmask = [24, 16, 8, 0].map((shift) => (mask >>> shift) & 255).join(".");
  return { ip: address, netmask, gateway };
}

function seconds(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0 && value <= 600))
    throw new AgentError("E_USAGE", "--off-time must be 0 to 600");
  return value * 1_000;
}
