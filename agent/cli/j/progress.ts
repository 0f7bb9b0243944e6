/** How often a terminal's bar moves; elsewhere a line is written at most every ten seconds. */
const barEveryMs = 100;
const lineEveryMs = 10_000;

/** Shows on stderr how far a transfer is: a bar on a terminal, else a line now and then. */
export class Progress {
  readonly #label: string;
  readonly #totalBytes: number | undefined;
  readonly #bytes: () => number;
  readonly #remainingMs: () => number | undefined;
  readonly #startedMs = performance.now();
  readonly #timer: NodeJS.Timeout;

  /**
   * @param totalBytes undefined when nobody knows
   * @param bytes how many are done, asked whenever the display changes
   * @param remainingMs where somebody knows better than the speed until now
   */
  constructor(
    label: string,
    totalBytes: number | undefined,
    bytes: () => number,
    remainingMs: () => number | undefined = () => undefined,
  ) {
    this.#label = label;
    this.#totalBytes = totalBytes;
    this.#bytes = bytes;
    this.#remainingMs = remainingMs;
    this.#timer = setInterval(() => this.#show(), process.stderr.isTTY ? barEveryMs : lineEveryMs).unref();
  }

  /** Shows the last state and leaves the line. */
  end(): void {
    clearInterval(this.#timer);
    this.#show();
    if (process.stderr.isTTY) process.stderr.write("\n");
  }

  #show(): void {
    const seconds = Math.max((performance.now() - this.#startedMs) / 1000, 0.001);
    const line = progressLine({
      label: this.#label,
      bytes: this.#bytes(),
      totalBytes: this.#totalBytes,
      seconds,
      remainingMs: this.#remainingMs(),
    });
    process.stderr.write(process.stderr.isTTY ? `\r${line}\x1b[K` : `${line}\n`);
  }
}

const barWidth = 24;
const mebi = 1024 * 1024;

/** `flash [############            ]  50% 128.0/256.0 MiB 100.0 MiB/s 0:01` */
export function progressLine(of: {
  label: string;
  bytes: number;
  totalBytes: number | undefined;
  seconds: number;
  remainingMs?: number | undefined;
}): string {
  const rate = of.bytes / of.seconds;
  const done = (of.bytes / mebi).toFixed(1);
  const speed = `${(rate / mebi).toFixed(1)} MiB/s`;
  const told = of.remainingMs === undefined ? undefined : clock(of.remainingMs / 1000);
  if (of.totalBytes === undefined || of.totalBytes === 0) {
    return [of.label, done, "MiB", speed, ...(told === undefined ? [] : [told])].join(" ");
  }
  const part = Math.min(1, of.bytes / of.totalBytes);
  const bar = "#".repeat(Math.round(part * barWidth)).padEnd(barWidth);
  const percent = String(Math.floor(part * 100)).padStart(3);
  const left = told ?? clock(rate > 0 ? Math.max(0, of.totalBytes - of.bytes) / rate : 0);
  return `${of.label} [${bar}] ${percent}% ${done}/${(of.totalBytes / mebi).toFixed(1)} MiB ${speed} ${left}`;
}

/** `1:05` */
function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
