import { Progress } from "./j/progress.ts";

/** How far a transfer is, as drivers tell it over the wire. */
export interface TransferItem {
  readonly bytes: number;
  readonly total_bytes: number | null;
  readonly remaining_ms: number | null;
}

/** One bar a phase, on stderr. */
export class TransferProgress {
  #shown: { readonly phase: string; readonly bar: Progress } | undefined;
  #item: TransferItem = { bytes: 0, total_bytes: null, remaining_ms: null };

  show(phase: string, item: TransferItem): void {
    this.#item = item;
    if (this.#shown?.phase === phase) return;
    this.end();
    const total = item.total_bytes ?? undefined;
    const remaining = () => this.#item.remaining_ms ?? undefined;
    this.#shown = { phase, bar: new Progress(phase, total, () => this.#item.bytes, remaining) };
  }

  end(): void {
    this.#shown?.bar.end();
    this.#shown = undefined;
  }
}
