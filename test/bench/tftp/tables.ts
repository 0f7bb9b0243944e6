import { figure, median } from "../statistics.ts";

/** A Markdown table. */
export interface Table {
  readonly caption: string;
  readonly lines: readonly string[];
}

export function table(caption: string, head: readonly string[], rows: readonly (readonly string[])[]): Table {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const rule = head.map((_, index) => (index === 0 ? "---" : "---:"));
  return { caption, lines: [line(head), line(rule), ...rows.map(line)] };
}

/** Median and best. */
export function rateCell(rates: readonly number[]): string {
  return `${figure(median(rates))} (${figure(Math.max(...rates))})`;
}

/** In the order in which the keys come first. */
export function grouped<T>(samples: readonly T[], key: (sample: T) => string): [string, T[]][] {
  const groups = new Map<string, T[]>();
  for (const sample of samples) groups.set(key(sample), [...(groups.get(key(sample)) ?? []), sample]);
  return [...groups];
}

/** Another one first each time, so that a drift of the machine hits all. */
export function rotated<T>(list: readonly T[], by: number): T[] {
  return [...list.slice(by % list.length), ...list.slice(0, by % list.length)];
}
