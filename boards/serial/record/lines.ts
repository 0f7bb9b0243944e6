import type { LogItem } from "./log-item.ts";
import { describeMark, type Mark } from "./marks.ts";

/** One line of a console, or a mark between lines. */
export interface Line {
  readonly time: string;
  readonly monotonic_s: number;
  /** Without its end. */
  readonly text?: string;
  readonly mark?: Mark;
}

/** A line without an end is told in pieces of this. */
const longestLine = 64 * 1024;

/** Makes lines of the items of a record. */
export class LineMaker {
  #begun: { readonly item: LogItem; text: string } | undefined;

  push(item: LogItem): Line[] {
    const { time, monotonic_s, text, mark } = item;
    if (text === undefined) return [...this.flush(), { time, monotonic_s, ...(mark === undefined ? {} : { mark }) }];
    const parts = text.split("\n");
    const rest = parts.pop() ?? "";
    const lines: Line[] = [];
    for (const part of parts) {
      this.#add(item, part);
      lines.push(...this.flush());
    }
    if (rest !== "") this.#add(item, rest);
    if ((this.#begun?.text.length ?? 0) > longestLine) lines.push(...this.flush());
    return lines;
  }

  /** The line that has no end yet. */
  flush(): Line[] {
    const begun = this.#begun;
    this.#begun = undefined;
    if (begun === undefined) return [];
    const { time, monotonic_s } = begun.item;
    return [{ time, monotonic_s, text: begun.text.replace(/\r+$/, "") }];
  }

  #add(item: LogItem, text: string): void {
    if (this.#begun === undefined) this.#begun = { item, text };
    else this.#begun.text += text;
  }
}

/** A line for people; what would move the cursor of a terminal is shown as `\xNN`. */
export function formatLine({ time, text, mark }: Line): string {
  const body = mark === undefined ? printable(text ?? "") : `-- ${printable(describeMark(mark))} --`;
  return `${time} ${body}`;
}

function printable(text: string): string {
  return text.replace(/(?!\t)\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`);
}
