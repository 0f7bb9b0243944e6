import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { baseFlashers, withBundle } from "../../bundles/flash/configured.ts";
import type { BoardAddress } from "../../bundles/flash/bootloader.ts";
import { openImageSource } from "../../bundles/flash/image-source.ts";
import { timelineText } from "../../bundles/flash/receipt.ts";
import { writeDurably } from "../../agent/stream/durable.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { LogBus, severities } from "../driver/log.ts";
import type { FlashReceipt } from "../driver/receipt.ts";
import { SharedObjects } from "../driver/shared-objects.ts";
import { htmlReport } from "../ops/receipts/html-report.ts";
import { defineCommand, type Given, type Options } from "./command.ts";
import { demandExporterConfig, exporterOptions, loadExporterConfig } from "./exporter-config.ts";
import { flashStorage, storageOptions } from "./flash-storage.ts";
import { receiptOptions, openReceipts } from "./receipt-options.ts";
import { failureCode, listenForStop } from "./signals.ts";
import { flashBoardByNetboot, type Board } from "./flash-netboot.ts";
import { showSteps, showStepsOf } from "./flash-steps.ts";
import { withExporter } from "./with-exporter.ts";

const options = {
  exporter: { ...exporterOptions.exporter, multiple: true },
  "exporter-config": { ...exporterOptions["exporter-config"], multiple: true },
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
  retries: { type: "string", value: "N", help: "how often it is tried again from the power cycle on (3)" },
  sha256: { type: "string", value: "HEX", help: "digest that IMAGE must have, as it is given", group: "Image" },
  "bearer-token-file": {
    type: "string",
    value: "PATH",
    help: "token for the image's server, in a file (JMP_IMAGE_TOKEN in the environment)",
    group: "Image",
  },
  "header-file": {
    type: "string",
    value: "PATH",
    help: "headers for the image's server, one 'Name: value' a line",
    group: "Image",
  },
  "image-ca": {
    type: "string",
    value: "PATH",
    help: "certificate authorities that the image's server or registry may use beside the usual ones",
    group: "Image",
  },
  "plain-http": {
    type: "string",
    value: "HOST",
    multiple: true,
    help: "a registry that is spoken to without TLS, for oci:// images",
    group: "Image",
  },
  "leave-on": { type: "boolean", help: "do not switch the board off at the end" },
  ...storageOptions,
} as const satisfies Options;

export const flashBoard = defineCommand({
  name: "flash",
  summary:
    "Flash a board on this host, by netboot or through a storage mux: no client needed. The disk is read back and compared.",
  words: { usage: "IMAGE", least: 1, most: 1 },
  options,
  notes: `
IMAGE is raw or compressed with gzip, xz, bzip2 or zstd; its first bytes tell. It is a file, an http:// or https:// URL,
oci://HOST/NAME:TAG or oci-layout:DIR; this host fetches it, so that what is on the disk can be compared. With several
exporters their boards are flashed at once, with a receipt and a console log for each. The exit code is 0 only if all
disks were read back and hold the image.

Example:
  jmp-agent flash image.raw.xz --exporter-config bench.yaml --target emmc`,

  async run(given, [imageText = ""]) {
    if (given.storage !== undefined) {
      const one = onlyExporter(given);
      const access = await imageOptions(given);
      return await withExporter(one, (exporter, signal) =>
        flashStorage(exporter, imageText, { ...given, ...one }, signal, access),
      );
    }
    const settings = {
      address: boardAddress(given.ip, given.gateway),
      offMs: seconds(given["off-time"]),
      retries: count(given.retries),
    };
    const stop = listenForStop((exitCode) => process.exit(exitCode));
    const boards = await readBoards(given);
    const logs = new LogBus();
    showWarnings(logs);
    const log = logs.logger({ source: "system", logger: "jmp-agent" });
    const { keepers } = await openReceipts(given, log);
    const image = await openImageSource(imageText, { ...(await imageOptions(given)), signal: stop.signal });
    try {
      // They share ports and caches, as in an agent.
      const onHost = new SharedObjects();
      const flashOne = (board: Board) =>
        flashBoardByNetboot(board, {
          ...settings,
          image,
          logs,
          onHost,
          receipts: keepers({ exporter: board.name, exported: () => board.entries, log }),
          method: given.method === "fls" ? "fls" : "shell",
          target: given.target,
          leavePowerOn: given["leave-on"],
          events: boards.length === 1 ? showSteps() : showStepsOf(board.name),
          signal: stop.signal,
        });
      const attempts = await Promise.allSettled(boards.map(flashOne));
      const flashed = attempts.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
      if (given.html !== undefined && flashed.length > 0) await writeDurably(given.html, htmlReport(flashed));
      let exitCode = 0;
      for (const [index, result] of attempts.entries()) {
        const { name = "", consoleLogPath = "" } = boards[index] ?? {};
        if (boards.length > 1) process.stdout.write(`${index > 0 ? "\n" : ""}${name}\n`);
        if (result.status === "rejected") {
          if (boards.length === 1) throw result.reason;
          process.stderr.write(`jmp-agent flash: ${name}: ${toAgentError(result.reason).message}\n`);
          exitCode = failureCode(stop.signal);
        } else if (showReceipt(result.value.receipt, consoleLogPath) !== 0) exitCode = failureCode(stop.signal);
      }
      return exitCode;
    } finally {
      await image.close();
    }
  },
});

/** Reads all configurations before any board is touched. */
async function readBoards(given: Given<typeof options>): Promise<Board[]> {
  const wanted = [
    ...(given.exporter ?? []).map((exporter) => ({ exporter })),
    ...(given["exporter-config"] ?? []).map((path) => ({ "exporter-config": path })),
  ];
  if (wanted.length === 0) demandExporterConfig({});
  const configs = await Promise.all(wanted.map(async (one) => (await loadExporterConfig(one)).config));
  const names = configs.map(({ metadata }) => metadata.name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new AgentError("E_USAGE", `the exporter ${twice} is given twice`);
  const file = (path: string, name: string) => (configs.length === 1 ? path : nameBefore(path, name));
  return configs.map(({ metadata: { name }, export: exported }) => {
    const path = chooseFlasher(baseFlashers(exported), given.flasher);
    return {
      name,
      path,
      entries: given.bundle === undefined ? exported : withBundle(exported, path, given.bundle),
      receiptPath: file(given.receipt ?? "receipt.json", name),
      consoleLogPath: file(given["console-log"] ?? "flash-console.log", name),
    };
  });
}

/** `receipt.json` becomes `NAME-receipt.json`: one for each of several boards. */
function nameBefore(path: string, name: string): string {
  return join(dirname(path), `${name.replaceAll("/", "_")}-${basename(path)}`);
}

function onlyExporter(given: Given<typeof options>) {
  const [exporter, path] = [given.exporter ?? [], given["exporter-config"] ?? []];
  if (exporter.length > 1 || path.length > 1) throw new AgentError("E_USAGE", "--storage is of one exporter");
  return {
    exporter: exporter[0],
    "exporter-config": path[0],
  } as Given<typeof exporterOptions>;
}

async function imageOptions(given: Given<typeof options>) {
  const { sha256, "image-ca": ca, "bearer-token-file": token, "header-file": headers, "plain-http": plainHttp } = given;
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/i.test(sha256)) {
    throw new AgentError("E_USAGE", "--sha256 must be 64 hexadecimal digits");
  }
  return {
    sha256: sha256?.toLowerCase(),
    ca: ca === undefined ? undefined : await readFile(ca, "utf8"),
    bearerToken: token === undefined ? process.env["JMP_IMAGE_TOKEN"] : (await readFile(token, "utf8")).trim(),
    headers: headers === undefined ? undefined : readHeaders(await readFile(headers, "utf8"), headers),
    registry: { plainHttp: plainHttp ?? [] },
  };
}

/** Lines like `Name: value`. Errors do not repeat them: they may be secret. */
function readHeaders(text: string, path: string): Record<string, string> {
  const lines = text.split("\n").map((line) => line.trim());
  const headers: Record<string, string> = {};
  for (const [index, line] of lines.entries()) {
    if (line === "") continue;
    const [, name, value] = /^([\w!#$%&'*+.^`|~-]+):\s*([\x20-\x7e\t]*)$/.exec(line) ?? [];
    if (name === undefined || value === undefined) {
      throw new AgentError("E_USAGE", `${path}:${index + 1}: not a header like "Name: value"`);
    }
    headers[name.toLowerCase()] = value;
  }
  return headers;
}

function count(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d$|^10$/.test(text)) throw new AgentError("E_USAGE", "--retries must be 0 to 10");
  return Number(text);
}

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
