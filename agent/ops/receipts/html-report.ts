import type { FlashReceipt } from "../../driver/receipt.ts";
import { durationText, html, Markup, sizeText } from "./html-markup.ts";
import { style } from "./html-style.ts";
import { overview, rangesStrip, timeline, timeSpanOf, verdictWord, type TimeSpan } from "./html-timeline.ts";

/** One flash of a report. */
export interface ReportedFlash {
  readonly receipt: FlashReceipt;
  /** What the board said last, as it came. */
  readonly consoleTail?: string | undefined;
}

/** Of a console, so many of its last lines are shown. */
const consoleLines = 60;
const longestConsole = 16_384;

/** The end of what a board says, for a report. */
export class ConsoleTail {
  #bytes = Buffer.alloc(0);

  add(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]).subarray(-longestConsole);
  }

  get text(): string {
    return this.#bytes.toString();
  }
}

/** One HTML file that needs nothing else, no script either: flashes as pictures, on one axis of time. */
export function htmlReport(flashes: readonly ReportedFlash[]): string {
  const receipts = flashes.map(({ receipt }) => receipt);
  const span = timeSpanOf(receipts);
  const title = titleOf(receipts);
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title}</title>
        <style>
          ${new Markup(style)}
        </style>
      </head>
      <body>
        ${
          receipts.length > 1 &&
          html`<h1>${title}</h1>
            ${overview(receipts, span)}`
        }
        ${flashes.map((flash) => section(flash, span))}
        <footer>Bars are steps, on one axis of time. Where there is no bar, no step ran.</footer>
      </body>
    </html> `.text;
}

function titleOf(receipts: readonly FlashReceipt[]): string {
  const [only, ...others] = receipts;
  if (only !== undefined && others.length === 0) return `Flash of ${only.exporter}: ${only.verdict}`;
  const good = receipts.filter(({ verdict }) => verdict === "verified").length;
  return `${receipts.length} flashes: ${good === receipts.length ? "all" : good} verified`;
}

function section({ receipt, consoleTail }: ReportedFlash, span: TimeSpan): Markup {
  const { verdict, failure, durationMs, image, target, ranges } = receipt;
  const took = durationMs === undefined ? "" : ` in ${durationText(durationMs)}`;
  const ofDisk = target?.bytes ?? image.content?.bytes;
  return html`<section>
    <h2>${receipt.exporter} <span class="verdict ${verdict}">${verdictWord(receipt)}</span></h2>
    <p>
      ${image.name ?? "An image"}${target && ` to ${target.path}`}${took}, begun ${receipt.startedAt}.
      ${meaning[verdict]}
    </p>
    ${
      failure &&
      html`<div class="failure"><strong>${failure.step}</strong>: ${failure.message} <code>${failure.code}</code></div>`
    }
    ${receipt.steps.length > 0 && timeline(receipt, span)}
    ${
      ranges !== undefined &&
      ofDisk !== undefined &&
      ofDisk > 0 &&
      html`<h3>Ranges</h3>
        ${rangesStrip(ranges, ofDisk)}
        <p class="small">
          ${sizeText(sum(ranges.written))} in ${ranges.written.length} ranges written,
          ${sizeText(sum(ranges.unchanged))} in ${ranges.unchanged.length} unchanged, of ${sizeText(ofDisk)}.
        </p>`
    }
    ${
      consoleTail !== undefined &&
      consoleTail !== "" &&
      html`<h3>The console's last words</h3>
        <pre>${lastLines(consoleTail)}</pre>`
    }
    <dl>${facts(receipt)}</dl>
    ${bootFiles(receipt)}
  </section>`;
}

const meaning: Readonly<Record<FlashReceipt["verdict"], string>> = {
  verified: "The disk was read back and holds the image.",
  written: "The disk took the image; it was not read back, as it was asked for.",
  failed: "The disk must not be taken for good.",
  interrupted: "The agent ended in the middle: what the disk holds is not known.",
};

function facts(receipt: FlashReceipt): Markup[] {
  const { image, target, bundle, readBackSha256: readBack } = receipt;
  const content = image.content?.sha256;
  const compared =
    readBack !== undefined && content !== undefined && (readBack === content ? " = content" : " ≠ content");
  const rows: [string, string | Markup | undefined][] = [
    ["Image", image.name],
    ["Given", known([image.bytes === undefined ? undefined : size(image.bytes), image.encoding ?? "raw"])],
    ["Given, SHA-256", digest(image.sha256)],
    ["Content", image.content && size(image.content.bytes)],
    ["Content, SHA-256", digest(content)],
    ["Read back, SHA-256", readBack === undefined ? undefined : html`<code>${readBack}</code>${compared}`],
    ["Target", known([target?.path, target?.model, target?.bytes === undefined ? undefined : size(target.bytes)])],
    ["Serial number", target?.serial],
    ["Card (CID)", digest(target?.cid)],
    ["Driver", `${receipt.driver}, ${receipt.method}`],
    ["Lease", receipt.lease],
    ["Bundle", bundle && (bundle.reference ?? bundle.name)],
    ["Bundle, digest", digest(bundle?.digest)],
    ["Bundle manifest, SHA-256", digest(bundle?.manifestSha256)],
    ["Configuration, SHA-256", digest(receipt.configSha256)],
    ["Receipt", digest(receipt.id)],
    ...Object.entries(receipt.versions ?? {}).map(([name, value]): [string, string] => [name, value]),
  ];
  return rows
    .filter(([, value]) => value !== undefined && value !== "")
    .map(
      ([name, value]) =>
        html`<dt>${name}</dt>
          <dd>${value}</dd>`,
    );
}

function bootFiles({ bundle }: FlashReceipt): Markup | undefined {
  if (bundle === undefined || bundle.files.length === 0) return undefined;
  const rows = bundle.files.map(
    ({ name, address, bytes, sha256 }) =>
      html`<tr>
        <td>${name}</td>
        <td>${address}</td>
        <td>${size(bytes)}</td>
        <td><code>${sha256}</code></td>
      </tr>`,
  );
  return html`<h3>Boot files</h3>
    <div class="picture">
      <table>
        <tr>
          <th>Name</th>
          <th>Address</th>
          <th>Size</th>
          <th>SHA-256</th>
        </tr>
        ${rows}
      </table>
    </div>`;
}

const digest = (text: string | undefined) => (text === undefined ? undefined : html`<code>${text}</code>`);
const known = (parts: readonly (string | undefined)[]) => parts.filter((part) => part !== undefined).join(", ");
const size = (bytes: number) => `${sizeText(bytes)} (${bytes} bytes)`;
const sum = (ranges: readonly { start: number; end: number }[]) =>
  ranges.reduce((total, { start, end }) => total + end - start, 0);

/** Without the sequences that colour a terminal. */
function lastLines(text: string): string {
  return (
    text
      .slice(-longestConsole)
      // eslint-disable-next-line no-control-regex -- these are control sequences
      .replaceAll(/\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\^_])/g, "")
      .replaceAll(/\r+\n?/g, "\n")
      .trimEnd()
      .split("\n")
      .slice(-consoleLines)
      .join("\n")
  );
}
