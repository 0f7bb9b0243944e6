import { timelineText } from "../../../bundles/flash/receipt.ts";
import { writeDurably } from "../../stream/durable.ts";
import type { FlashReceipt } from "../../driver/receipt.ts";
import { AgentError, toAgentError } from "../../driver/errors.ts";
import { htmlReport } from "../../ops/receipts/html-report.ts";
import { defaultReceiptDirectory } from "../../ops/receipts/place.ts";
import { ReceiptStore } from "../../ops/receipts/store.ts";
import { defineCommand } from "../command.ts";
import { receiptDirectoryOption } from "../receipt-options.ts";
import { findReceipt } from "./sources.ts";
import { printable, seconds } from "./text.ts";

export const show = defineCommand({
  name: "receipts show",
  summary: "Show a receipt, or make a page of one or several.",
  words: { usage: "ID|FILE ...", least: 1, most: 200 },
  options: {
    ...receiptDirectoryOption,
    json: { type: "boolean", help: "the receipt as it is kept" },
    html: { type: "string", value: "FILE", help: "write one HTML file with the steps as a picture" },
  },
  notes: `
ID is the beginning of an id, or 'latest'. Several boards that were flashed together come onto one axis of time.

Examples:
  jmp-agent receipts show latest
  jmp-agent receipts show 20260301 --html march-1.html`,

  async run({ receipts: directory = defaultReceiptDirectory(), json, html }, words) {
    const store = new ReceiptStore({ directory });
    const found = [];
    for (const word of words) found.push(await findReceipt(store, word));
    if (html !== undefined) {
      try {
        await writeDurably(html, htmlReport(found));
      } catch (thrown) {
        throw new AgentError("E_USAGE", `--html: ${toAgentError(thrown).message}`, { cause: thrown });
      }
      return 0;
    }
    const texts = found.map(({ text, receipt }) => (json === true ? text : describe(receipt)));
    process.stdout.write(texts.join(json === true ? "" : "\n"));
    return 0;
  },
});

function describe(receipt: FlashReceipt): string {
  const { image, bundle, target, failure, ranges } = receipt;
  const facts: [string, string | number | undefined][] = [
    ["verdict", receipt.verdict],
    ["failure", failure && `${failure.step}: ${failure.code}: ${failure.message}`],
    ["started", receipt.startedAt],
    ["took", receipt.durationMs === undefined ? undefined : seconds(receipt.durationMs)],
    ["exporter", receipt.exporter],
    ["lease", receipt.lease],
    ["driver", `${receipt.driver}, ${receipt.method}`],
    ["image", [image.name, image.bytes && `${image.bytes} bytes`, image.encoding].filter(Boolean).join(", ")],
    ["image sha256", image.sha256],
    ["content", image.content && `${image.content.bytes} bytes`],
    ["content sha256", image.content?.sha256],
    ["read back", receipt.readBackSha256],
    [
      "target",
      target && [target.path, target.model, target.bytes && `${target.bytes} bytes`].filter(Boolean).join(", "),
    ],
    ["serial", target?.serial],
    ["cid", target?.cid],
    ["ranges", ranges && `${ranges.written.length} written, ${ranges.unchanged.length} unchanged`],
    ["bundle", bundle && (bundle.reference ?? bundle.name)],
    ["bundle digest", bundle?.digest],
    ["configuration", receipt.configSha256],
    ...Object.entries(receipt.versions ?? {}),
  ];
  const known = facts.filter(([, value]) => value !== undefined && value !== "");
  const width = Math.max(...known.map(([name]) => name.length));
  const lines = known.map(([name, value]) => `${printable(name).padEnd(width)}  ${printable(String(value))}\n`);
  const steps =
    receipt.steps.length === 0 ? "" : "\n" + timelineText(receipt.steps).split("\n").map(printable).join("\n");
  return `${receipt.id ?? ""}\n${lines.join("")}${steps}`;
}
