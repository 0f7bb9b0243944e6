import { setTimeout as sleep } from "node:timers/promises";
import type { RecordFiles } from "./files.ts";
import type { Mark } from "./marks.ts";
import { momentNow } from "./moment.ts";
import type { Entry, EntryKind, Moment } from "./protocol.ts";
import { RecordReader } from "./reader.ts";
import { EntryRing } from "./ring.ts";

/** Where the numbers begin when those of an earlier process cannot be read: beyond them, whatever they were. */
const unknownPast = () => 1e12 + Date.now();

/** How long the end may wait for a disk that does not answer. */
const closeLimitMs = 3_000;

/** A record of a console: its last entries in memory, and more of them in files. */
export class ConsoleRecord {
  readonly files: RecordFiles | undefined;
  /** Settles when entries have numbers; those that came before are the first. */
  readonly ready: Promise<void>;
  readonly #ring: EntryRing;
  #early: (() => void)[] | undefined = [];
  #first = 0;
  #next = 0;
  #readers = new Set<() => void>();
  #closed = false;

  constructor({ memoryBytes, files }: { memoryBytes: number; files: RecordFiles | undefined }) {
    this.files = files;
    this.#ring = new EntryRing(memoryBytes);
    this.ready = this.#begin();
  }

  /** Number of the first entry of this process. */
  get first(): number {
    return this.#first;
  }

  /** Number of the entry that comes next; undefined until it is known. */
  get next(): number | undefined {
    return this.#early === undefined ? this.#next : undefined;
  }

  append(kind: EntryKind, payload: Uint8Array, at: Moment): void {
    if (this.#closed) return;
    if (this.#early !== undefined) return void this.#early.push(() => this.append(kind, payload, at));
    const entry: Entry = { seq: this.#next, ...at, kind, payload };
    this.#next += 1;
    this.#ring.push(entry);
    this.files?.write(entry);
    for (const wake of this.#readers) wake();
  }

  mark(mark: Mark, at: Moment = momentNow()): void {
    this.append("m", Buffer.from(JSON.stringify(mark)), at);
  }

  /**
   * Entries from a number on. A reader that lags behind the memory is helped out by the files; what they do not have any more
   * either is told as `missed`.
   * @param follow goes on for ever, until the signal aborts or the record closes
   */
  async *read(from: number, { follow, signal }: { follow: boolean; signal: AbortSignal }): AsyncGenerator<Entry> {
    await this.ready;
    let next = from;
    while (!signal.aborted) {
      const entry = this.#ring.get(next);
      if (entry !== undefined) {
        next += 1;
        yield entry;
      } else if (next >= this.#next) {
        if (!follow || this.#closed) return;
        await this.#change(signal);
      } else {
        for await (const old of this.#fromFiles(next, signal)) {
          if (old.seq > next) yield this.#missed(next, old.seq);
          next = old.seq + 1;
          yield old;
        }
        const first = this.#ring.first ?? this.#next;
        if (next >= first) continue;
        yield this.#missed(next, first);
        next = first;
      }
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.ready;
    this.mark({ mark: "stop" });
    this.#closed = true;
    for (const wake of this.#readers) wake();
    await Promise.race([this.files?.close(), sleep(closeLimitMs, undefined, { ref: false })]);
  }

  async #begin(): Promise<void> {
    if (this.files !== undefined) this.#next = this.#first = (await this.files.open()) ?? unknownPast();
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const append of early) append();
  }

  /** What the files have before that which the memory has. */
  async *#fromFiles(from: number, signal: AbortSignal): AsyncGenerator<Entry> {
    if (this.files === undefined) return;
    await this.files.flush();
    if (this.files.folder === undefined) return;
    const reader = new RecordReader(this.files.folder, from);
    try {
      while (!signal.aborted) {
        const entries = await reader.read();
        if (entries.length === 0) return;
        for (const entry of entries) {
          if (this.#ring.get(entry.seq) !== undefined) return;
          yield entry;
        }
      }
    } finally {
      await reader.close();
    }
  }

  #missed(from: number, to: number): Entry {
    const told: Mark = { mark: "missed", entries: to - from };
    return { seq: from, ...momentNow(), kind: "m", payload: Buffer.from(JSON.stringify(told)) };
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        signal.removeEventListener("abort", done);
        this.#readers.delete(done);
        resolve();
      };
      signal.addEventListener("abort", done);
      this.#readers.add(done);
    });
  }
}
