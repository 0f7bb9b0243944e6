import type { Entry } from "./protocol.ts";

/** What keeping one entry costs beside its payload, about. */
const entryOverheadBytes = 200;

/** The last entries of a record, as many as fit into so much memory. */
export class EntryRing {
  readonly #mostBytes: number;
  #entries: (Entry | undefined)[] = [];
  /** Index of the first that is still kept. */
  #begin = 0;
  #bytes = 0;

  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  /** Sequence number of the oldest entry, or undefined. */
  get first(): number | undefined {
    return this.#entries[this.#begin]?.seq;
  }

  push(entry: Entry): void {
    this.#entries.push(entry);
    this.#bytes += entry.payload.length + entryOverheadBytes;
    while (this.#bytes > this.#mostBytes && this.#begin < this.#entries.length - 1) {
      this.#bytes -= (this.#entries[this.#begin] as Entry).payload.length + entryOverheadBytes;
      this.#entries[this.#begin] = undefined;
      this.#begin += 1;
    }
    if (this.#begin > 1024 && this.#begin * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#begin);
      this.#begin = 0;
    }
  }

  get(seq: number): Entry | undefined {
    const { first } = this;
    return first === undefined || seq < first ? undefined : this.#entries[this.#begin + seq - first];
  }
}
