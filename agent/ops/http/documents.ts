/** Files that the page links to: receipts, and the end of the audit log. */
import { createHash } from "node:crypto";
import { open, readFile } from "node:fs/promises";
import { isSystemError } from "../../driver/errors.ts";
import { htmlReport } from "../receipts/html-report.ts";
import { timeline, timeSpanOf } from "../receipts/html-timeline.ts";
import type { ReceiptStore } from "../receipts/store.ts";
import { json, policy, refusal, type Answer } from "./answer.ts";

const tailBytes = 256 * 1024;
const tailLines = 500;
const html = "text/html; charset=utf-8";

const noReceipt = () => refusal(404, "there is no such receipt");

/** @param name of a receipt: `ID.json`, `ID.html`, or `ID.timeline`, its picture alone */
export async function receipt(store: ReceiptStore, name: string): Promise<Answer> {
  const [, id = "", form] = /^([\w-]{1,128})\.(json|html|timeline)$/.exec(name) ?? [];
  if (form === undefined) return noReceipt();
  const flash = await store.get(id);
  if (flash.state !== "ended") return noReceipt();
  if (form === "json") return json(flash.receipt);
  if (form === "timeline") {
    const span = timeSpanOf([flash.receipt]);
    return { type: html, body: flash.receipt.steps.length === 0 ? "" : timeline(flash.receipt, span).text };
  }
  const body = htmlReport([{ receipt: flash.receipt }]);
  const style = /<style>([^]*?)<\/style>/.exec(body)?.[1] ?? "";
  const hash = createHash("sha256").update(style).digest("base64");
  return { type: html, body, headers: { "Content-Security-Policy": policy([hash]) } };
}

/** The last records of the audit log, oldest first. @param file undefined if none is written */
export async function auditTail(file: string | undefined): Promise<Answer> {
  if (file === undefined) return refusal(404, "no audit log is written: run with --audit-log");
  try {
    const handle = await open(file);
    try {
      const { size } = await handle.stat();
      const from = Math.max(0, size - tailBytes);
      const { bytesRead, buffer } = await handle.read(Buffer.alloc(size - from), 0, size - from, from);
      const lines = buffer.toString("utf8", 0, bytesRead).split("\n");
      // The first may have lost its beginning, and what follows the last newline has no end yet.
      const records = lines.slice(from === 0 ? 0 : 1, -1).slice(-tailLines);
      return { type: "application/x-ndjson", body: records.map((line) => `${line}\n`).join("") };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (isSystemError(error) && error.code === "ENOENT") return { type: "application/x-ndjson", body: "" };
    throw error;
  }
}

const types: Readonly<Record<string, string>> = {
  "index.html": html,
  "style.css": "text/css; charset=utf-8",
  "page.js": "text/javascript; charset=utf-8",
  "exporters.js": "text/javascript; charset=utf-8",
  "flashes.js": "text/javascript; charset=utf-8",
  "console.js": "text/javascript; charset=utf-8",
  "lines.js": "text/javascript; charset=utf-8",
  "elements.js": "text/javascript; charset=utf-8",
  "icon.svg": "image/svg+xml",
};

/** A file of the page itself, which lies beside the code. */
export async function pageFile(name: string): Promise<Answer> {
  const type = Object.hasOwn(types, name) ? types[name] : undefined;
  if (type === undefined) return refusal(404, "there is no such page");
  return { type, body: await readFile(new URL(`./page/${name}`, import.meta.url)) };
}
