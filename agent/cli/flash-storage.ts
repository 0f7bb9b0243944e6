import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { power as powerSwitch } from "../../boards/power/interface.ts";
import { imageStorageMux } from "../../boards/storage/interface.ts";
import { openImageSource, type ImageSourceOptions } from "../../bundles/flash/image-source.ts";
import { timelineText } from "../../bundles/flash/receipt.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { FlashReceipt } from "../driver/receipt.ts";
import { receiptText } from "../ops/receipts/format.ts";
import { htmlReport } from "../ops/receipts/html-report.ts";
import type { Exporter } from "../session/exporter.ts";
import { writeDurably } from "../stream/durable.ts";
import { bmapBeside } from "./beside.ts";
import type { Given, Options } from "./command.ts";
import { chooseStorage } from "./storage-drivers.ts";
import { failureCode } from "./signals.ts";
import { TransferProgress } from "./transfer-progress.ts";

/** Of `flash`, for a medium that is switched between host and board. */
export const storageOptions = {
  storage: {
    type: "string",
    value: "NAME",
    help: "write to this storage (SDWire, USB-SD-Mux, DUTLink, …) instead of booting the board",
    group: "With --storage",
  },
  bmap: {
    type: "string",
    value: "PATH",
    help: "the image's block map (IMAGE.bmap, if it lies beside)",
    group: "With --storage",
  },
  "no-bmap": { type: "boolean", help: "write everything, also where a block map lies beside", group: "With --storage" },
  "skip-unchanged": {
    type: "boolean",
    help: "write only what differs from what was written last, and is still there",
    group: "With --storage",
  },
  "no-verify": { type: "boolean", help: "do not read back what was written", group: "With --storage" },
  power: {
    type: "string",
    value: "NAME",
    help: "switch this power off before, and on after a flash that succeeded (power is left alone)",
    group: "With --storage",
  },
} as const satisfies Options;

/**
 * Writes an image to the storage of a board: to the host, write, read back, to the board. The board gets its storage in every case, as with
 * the Python client; only power that was asked for is touched.
 * @param imageText a file, or what else {@link openImageSource} takes
 * @returns the exit code: 0 only if everything was read back and is right, or reading back was switched off
 * @throws AgentError E_USAGE, E_CONFIG; before anything is touched
 */
export async function flashStorage(
  exporter: Exporter,
  imageText: string,
  given: Given<typeof storageOptions> & { readonly receipt?: string; readonly html?: string },
  signal: AbortSignal,
  access: Omit<ImageSourceOptions, "signal"> = {},
): Promise<number> {
  if (given.bmap !== undefined && given["no-bmap"])
    throw new AgentError("E_USAGE", "--bmap and --no-bmap exclude each other");
  const path = chooseStorage(exporter, given.storage ?? "");
  const image = await openImageSource(imageText, { ...access, signal });
  const beside = image.path === undefined ? undefined : await bmapBeside(image.path);
  const bmapPath = given["no-bmap"] ? undefined : (given.bmap ?? beside);
  if (bmapPath !== undefined) await stat(bmapPath);
  // What puts things in order at the end goes on after Ctrl-C.
  const mux = exporter.calls(path, imageStorageMux);
  const power = given.power === undefined ? undefined : exporter.calls(given.power, powerSwitch);
  await power?.off();

  const progress = new TransferProgress();
  let receipt: FlashReceipt | undefined;
  let error: unknown;
  let reached = 0;
  try {
    const content = await image.open(signal);
    // Who reads it is told what it fails with; it may also fail when nobody does any more.
    content.on("error", () => {});
    const source = exporter.resources.lend(content, null);
    const map = bmapPath === undefined ? null : exporter.resources.lend(createReadStream(bmapPath), null);
    if (bmapPath !== undefined) process.stderr.write(`block map ${bmapPath}\n`);
    const items = exporter.calls(path, imageStorageMux, { signal }).write_image(source, map, {
      verify: given["no-verify"] ? false : true,
      skip_unchanged: given["skip-unchanged"],
      name: image.name,
      bytes: image.bytes,
      host_path: image.path,
    });
    for await (const item of items) {
      if (item.phase === "write") reached = item.bytes;
      receipt = item.receipt ?? receipt;
      if (item.receipt === null) progress.show(item.phase, item);
    }
  } catch (thrown) {
    error = thrown;
  } finally {
    progress.end();
    await image.close();
  }
  const stays = await mux.dut().then(() => undefined, toAgentError);
  if (receipt !== undefined) {
    await writeDurably(given.receipt ?? "receipt.json", receiptText(receipt));
    if (given.html !== undefined) await writeDurably(given.html, htmlReport([{ receipt }]));
    process.stdout.write(timelineText(receipt.steps));
  }
  if (error !== undefined || receipt === undefined) {
    const { message, hint } = toAgentError(error ?? new AgentError("E_FAILED", "the driver made no receipt"));
    say(
      `${receipt?.failure?.step ?? path}: ${signal.aborted ? "interrupted" : message}${hint === undefined ? "" : ` (${hint})`}`,
    );
    say(whatIsLeft(receipt, reached));
  } else {
    process.stdout.write(success(receipt));
  }
  if (stays === undefined) say("the storage is at the board");
  else say(`the storage could not be given to the board: ${stays.message}`);
  if (error !== undefined || receipt === undefined || stays !== undefined) return failureCode(signal);
  await power?.on();
  return 0;
}

function say(text: string): void {
  process.stderr.write(`jmp-agent flash: ${text}\n`);
}

function whatIsLeft(receipt: FlashReceipt | undefined, reached: number): string {
  const name = receipt?.target?.path ?? "the storage";
  if (receipt?.target === undefined) return `nothing was written to ${name}`;
  return receipt.failure?.step === "write"
    ? `${name} holds an incomplete image: up to byte ${reached} of it`
    : `${name} must not be trusted: the image was written, but not found right`;
}

function success({ verdict, target, image, ranges }: FlashReceipt): string {
  const { content } = image;
  const unchanged = (ranges?.unchanged ?? []).reduce((sum, { start, end }) => sum + end - start, 0);
  const parts = [
    `${content?.mappedBytes ?? content?.bytes ?? 0} bytes ${verdict === "verified" ? "read back and compared" : "written, not read back"}`,
    ...(unchanged === 0 ? [] : [`${unchanged} of them were there already`]),
    `sha256 ${content?.sha256 ?? ""}`,
  ];
  return `${target?.path ?? ""} holds the image: ${parts.join(", ")}\n`;
}
