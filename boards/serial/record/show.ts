import { LineMaker, formatLine, type Line } from "./lines.ts";
import type { LogItem } from "./log-item.ts";

/** Where a record is read from: a driver, or its files. */
export interface LogSource {
  /** What is there now. @param lines about so many of the last, if only these are wanted */
  history(lines: number | undefined): AsyncIterable<LogItem>;
  /** What comes after an entry. */
  live(after: number): AsyncIterable<LogItem>;
}

export interface ShowOptions {
  readonly follow: boolean;
  /** Only so many of the last lines. */
  readonly lines: number | undefined;
  readonly grep: RegExp | undefined;
  /** Only what says how the board was started, and how long that took. */
  readonly boots: boolean;
  readonly form: "text" | "json" | "raw";
}

/** Prints a record as the words of a command ask for it. */
export async function showLog(
  source: LogSource,
  options: ShowOptions,
  write: (text: string | Uint8Array) => Promise<void>,
): Promise<void> {
  const { follow, lines, grep, boots, form } = options;
  const isWanted = ({ text, mark }: Line) => {
    if (boots) return mark?.mark === "boot" || mark?.mark === "power";
    return grep === undefined || (text !== undefined && grep.test(text));
  };
  const print = (line: Line) => write(`${form === "json" ? JSON.stringify(line) : formatLine(line)}\n`);

  const maker = new LineMaker();
  const last: Line[] = [];
  let after = -1;
  const chosen = boots || grep !== undefined;
  // Where nothing is there yet, what comes begins at the beginning; so even for no line the last one is looked at.
  for await (const item of source.history(chosen || lines === undefined ? undefined : Math.max(1, lines))) {
    after = item.seq;
    if (form === "raw") await write(bytesOf(item));
    else for (const line of maker.push(item)) await keep(line);
  }
  if (!follow || !chosen) for (const line of maker.flush()) await keep(line);
  for (const line of last) await print(line);
  if (!follow) return;
  for await (const item of source.live(after)) {
    if (form === "raw") {
      await write(bytesOf(item));
      continue;
    }
    // A prompt has no end, and shall be seen; a pattern is looked for in whole lines.
    const now = chosen ? maker.push(item) : [...maker.push(item), ...maker.flush()];
    for (const line of now.filter(isWanted)) await print(line);
  }

  async function keep(line: Line): Promise<void> {
    if (!isWanted(line)) return;
    if (lines === undefined) return await print(line);
    last.push(line);
    if (last.length > lines) last.shift();
  }
}

function bytesOf({ text, base64 }: LogItem): Uint8Array {
  return base64 === undefined ? Buffer.from(text ?? "") : Buffer.from(base64, "base64");
}
