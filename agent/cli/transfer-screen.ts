import type { WriteStream } from "node:tty";
import type { RunningTransfer } from "../driver/shown.ts";
import type { LogRecord } from "../driver/log.ts";

const redrawMs = 250;
/** More would scroll what happened off the screen. */
const mostRows = 10;
const barCells = 20;

/** What is on its way now, below the lines of what has happened, on a terminal. */
export class TransferScreen {
  readonly #terminal: Pick<WriteStream, "write" | "columns">;
  #rows: readonly string[] = [];
  #timer: NodeJS.Timeout | undefined;
  #running: () => RunningTransfer[] = () => [];

  constructor(terminal: Pick<WriteStream, "write" | "columns">) {
    this.#terminal = terminal;
  }

  /** Draws the list again and again until {@link close}. */
  watch(running: () => RunningTransfer[]): void {
    this.#running = running;
    this.#timer = setInterval(() => this.#draw(""), redrawMs);
  }

  /** Writes a line above the list. */
  line({ time, severity, message }: Pick<LogRecord, "time" | "severity" | "message">): void {
    const mark = severity === "INFO" || severity === "DEBUG" ? "" : `${severity.toLowerCase()}: `;
    this.#draw(`${time.toTimeString().slice(0, 8)} ${mark}${printable(message)}\n`);
  }

  /** The list goes, the lines stay. */
  close(): void {
    clearInterval(this.#timer);
    this.#running = () => [];
    this.#draw("");
  }

  #draw(above: string): void {
    const rows = transferRows(this.#running(), { columns: this.#terminal.columns, nowMs: performance.now() });
    if (above === "" && rows.length === 0 && this.#rows.length === 0) return;
    // Up to the list's first row, and everything from there on is written anew.
    const up = this.#rows.length === 0 ? "" : `\x1b[${this.#rows.length}A\r`;
    this.#terminal.write(`${up}\x1b[J${above}${rows.map((row) => `${row}\n`).join("")}`);
    this.#rows = rows;
  }
}

/** One row a transfer, none wider than the terminal. */
export function transferRows(
  transfers: readonly RunningTransfer[],
  { columns, nowMs }: { columns: number; nowMs: number },
): string[] {
  const rows = transfers.slice(0, mostRows).map((transfer) => {
    const { protocol, peer, name, direction, sizeBytes, movedBytes, startedMs } = transfer;
    const seconds = Math.max((nowMs - startedMs) / 1000, 0.001);
    const rate = `${megabytes(movedBytes / seconds)} MB/s`;
    const arrow = direction === "to-board" ? "→" : "←";
    const done = sizeBytes === undefined ? undefined : sizeBytes === 0 ? 1 : Math.min(movedBytes / sizeBytes, 1);
    const progress =
      done === undefined || sizeBytes === undefined
        ? `${megabytes(movedBytes)} MB`
        : `${bar(done)} ${`${Math.floor(done * 100)}`.padStart(3)} % of ${megabytes(sizeBytes)} MB`;
    return `${protocol.padEnd(4)} ${arrow} ${peer}  ${progress}  ${rate}  ${printable(name)}`;
  });
  if (transfers.length > mostRows) rows.push(`… and ${transfers.length - mostRows} more`);
  return rows.map((row) => (row.length > columns ? `${row.slice(0, Math.max(columns - 1, 0))}…` : row));
}

function bar(done: number): string {
  const full = Math.floor(done * barCells);
  return "█".repeat(full) + "░".repeat(barCells - full);
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

/** What boards name may not move the cursor. */
function printable(text: string): string {
  return text.replace(/[^\x20-\x7e\u00a0-\uffff]/gu, "?");
}
