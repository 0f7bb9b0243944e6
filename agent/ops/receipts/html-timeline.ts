import type { FlashReceipt, FlashStep } from "../../driver/receipt.ts";
import { durationText, html, sizeText, type Markup } from "./html-markup.ts";

/** The time that a page shows, in milliseconds since 1970: that of all its flashes. */
export interface TimeSpan {
  readonly startMs: number;
  readonly endMs: number;
}

const width = 1_000;
const plot = { left: 190, right: 830 };
const rowHeight = 24;
const axisHeight = 30;
/** More steps than a flash can have in good faith. */
const mostRows = 400;

/** A time that cannot be read is taken for the beginning of the page. */
function startOf(receipt: FlashReceipt): number | undefined {
  const startMs = Date.parse(receipt.startedAt);
  return Number.isNaN(startMs) ? undefined : startMs;
}

function lengthOf({ durationMs = 0, steps }: FlashReceipt): number {
  return steps.reduce((end, step) => Math.max(end, step.startMs + step.durationMs), durationMs);
}

export function timeSpanOf(receipts: readonly FlashReceipt[]): TimeSpan {
  const startMs = receipts.reduce((least, receipt) => Math.min(least, startOf(receipt) ?? Infinity), Infinity);
  const from = Number.isFinite(startMs) ? startMs : 0;
  const endMs = receipts.reduce((most, one) => Math.max(most, (startOf(one) ?? from) + lengthOf(one)), from);
  return { startMs: from, endMs: Math.max(endMs, from + 1) };
}

/** The steps of one flash, each in a row of its own, below the axis that all flashes of the page share. */
export function timeline(receipt: FlashReceipt, span: TimeSpan): Markup {
  const steps = [...receipt.steps].sort((one, other) => one.startMs - other.startMs).slice(0, mostRows);
  const offsetMs = (startOf(receipt) ?? span.startMs) - span.startMs;
  const height = axisHeight + steps.length * rowHeight + 8;
  const rows = steps.map((step, index) => row(step, axisHeight + index * rowHeight, offsetMs, span));
  return svg(height, `Steps of the flash of ${receipt.exporter}`, html`${axis(span, height)}${rows}`);
}

/** Several flashes in one picture, a row each. */
export function overview(receipts: readonly FlashReceipt[], span: TimeSpan): Markup {
  const height = axisHeight + receipts.length * rowHeight + 8;
  const rows = receipts.map((receipt, index) => {
    const y = axisHeight + index * rowHeight;
    const offsetMs = (startOf(receipt) ?? span.startMs) - span.startMs;
    const bars = receipt.steps.slice(0, mostRows).map((step) => bar(step, y, offsetMs, span));
    const endX = atX(offsetMs + lengthOf(receipt), span);
    return html`${label(receipt.exporter, y)}${bars}
      <text class="note" x="${endX + 8}" y="${y + 16}">${verdictWord(receipt)}</text>`;
  });
  return svg(height, "All flashes on one axis of time", html`${axis(span, height)}${rows}`);
}

/** The disk as a strip: what was written to it, and what was there already. */
export function rangesStrip({ written, unchanged }: NonNullable<FlashReceipt["ranges"]>, bytes: number): Markup {
  const strip = (ranges: typeof written, kind: string) =>
    merge(ranges, bytes / width).map(({ start, end }) => {
      const x = (start / bytes) * width;
      const wide = Math.max(((Math.min(end, bytes) - start) / bytes) * width, 1);
      return html`<rect class="${kind}" x="${round(x)}" y="0" width="${round(wide)}" height="18" />`;
    });
  return html`<svg
    class="strip"
    viewBox="0 0 ${width} 18"
    preserveAspectRatio="none"
    role="img"
    aria-label="Ranges of the disk"
  >
    <rect class="gap" x="0" y="0" width="${width}" height="18" />
    ${strip(unchanged, "wait")}${strip(written, "write")}
  </svg>`;
}

/** `verified`; what is not well is in capitals, for those who see no colours. */
export function verdictWord({ verdict }: FlashReceipt): string {
  return verdict === "verified" || verdict === "written" ? verdict : verdict.toUpperCase();
}

function row(step: FlashStep, y: number, offsetMs: number, span: TimeSpan): Markup {
  const endX = atX(offsetMs + step.startMs + step.durationMs, span);
  const attempt = step.attempt === undefined || step.attempt < 2 ? "" : ` (try ${step.attempt})`;
  return html`${label(step.name + attempt, y)}${bar(step, y, offsetMs, span)}
    <text class="note" x="${endX + 8}" y="${y + 16}">${note(step)}</text>`;
}

function label(text: string, y: number): Markup {
  const cut = text.length > 26 ? `${text.slice(0, 25)}…` : text;
  return html`<text class="name" x="${plot.left - 10}" y="${y + 16}"><title>${text}</title>${cut}</text>`;
}

function bar(step: FlashStep, y: number, offsetMs: number, span: TimeSpan): Markup {
  const x = atX(offsetMs + step.startMs, span);
  const wide = Math.max(atX(offsetMs + step.startMs + step.durationMs, span) - x, 2);
  return html`<rect class="${kindOf(step)}" x="${round(x)}" y="${y + 4}" width="${round(wide)}" height="16" rx="2"
    ><title>${step.name}: ${note(step)}</title></rect
  >`;
}

/** `12.4 s, 67.1 MB, 5.4 MB/s` */
function note({ durationMs, bytes, verdict }: FlashStep): string {
  const parts = [durationText(durationMs)];
  if (verdict === "failed") parts.push("FAILED");
  if (bytes !== undefined && bytes > 0 && durationMs > 0) parts.push(`${sizeText((bytes / durationMs) * 1000)}/s`);
  return parts.join(", ");
}

function kindOf({ name, verdict }: FlashStep): "failed" | "write" | "verify" | "wait" | "step" {
  if (verdict === "failed") return "failed";
  if (/^(write|sync)/.test(name)) return "write";
  if (/^(verify|read back)/.test(name)) return "verify";
  return name.startsWith("wait") ? "wait" : "step";
}

function axis(span: TimeSpan, height: number): Markup {
  const lengthMs = span.endMs - span.startMs;
  const stepMs = tickMs(lengthMs);
  const ticks = Array.from({ length: Math.floor(lengthMs / stepMs) + 1 }, (_, index) => index * stepMs);
  return html`${ticks.map((ms) => {
    const x = round(atX(ms, span));
    return html`<line class="grid" x1="${x}" x2="${x}" y1="22" y2="${height - 4}" />
      <text class="tick" x="${x}" y="16">${tickText(ms, stepMs)}</text>`;
  })}`;
}

/** At most eight ticks, at times that people count in. */
function tickMs(lengthMs: number): number {
  const steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800];
  const found = steps.find((seconds) => lengthMs / (seconds * 1000) <= 8);
  return found === undefined ? Math.ceil(lengthMs / 8 / 3_600_000) * 3_600_000 : found * 1000;
}

function tickText(ms: number, stepMs: number): string {
  if (stepMs >= 3_600_000) return `${ms / 3_600_000} h`;
  if (stepMs >= 60_000) return `${ms / 60_000} min`;
  return `${Number((ms / 1000).toFixed(3))} s`;
}

function atX(ms: number, { startMs, endMs }: TimeSpan): number {
  return plot.left + (Math.min(Math.max(ms, 0), endMs - startMs) / (endMs - startMs)) * (plot.right - plot.left);
}

/** Ranges that lie closer than a pixel are one: a receipt may have thousands. */
function merge(ranges: readonly { start: number; end: number }[], leastGap: number): { start: number; end: number }[] {
  const merged: { start: number; end: number }[] = [];
  for (const { start, end } of [...ranges].sort((one, other) => one.start - other.start)) {
    const last = merged.at(-1);
    if (last !== undefined && start - last.end < leastGap) last.end = Math.max(last.end, end);
    else merged.push({ start, end });
  }
  return merged;
}

function svg(height: number, title: string, content: Markup): Markup {
  return html`<div class="picture">
    <svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}">${content}</svg>
  </div>`;
}

const round = (value: number) => Number(value.toFixed(1));
