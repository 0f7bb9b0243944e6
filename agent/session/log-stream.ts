import { LogSource as WireSource } from "../../proto/gen/jumpstarter/v1/common.ts";
import type { LogStreamResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import type { LogBus, LogRecord, LogSource } from "../driver/log.ts";

const wireSources: Record<LogSource, WireSource> = {
  driver: WireSource.LOG_SOURCE_DRIVER,
  "before-lease-hook": WireSource.LOG_SOURCE_BEFORE_LEASE_HOOK,
  "after-lease-hook": WireSource.LOG_SOURCE_AFTER_LEASE_HOOK,
  system: WireSource.LOG_SOURCE_SYSTEM,
};

/** Longer messages are cut: one record must never come near the message limit of the clients. */
const longestMessage = 64 * 1024;

/**
 * The session's last log records. Every reader has its own place in them, begins at the oldest, and gets all; one
 * that is slower than the ring is told how many it missed.
 */
export class LogRing {
  readonly #capacity: number;
  readonly #records: LogRecord[] = [];
  /** Sequence number of the oldest record. */
  #first = 0;
  readonly #wakers = new Set<() => void>();
  readonly #unsubscribe: () => void;
  #closed = false;

  constructor(logs: LogBus, capacity = 4096) {
    this.#capacity = capacity;
    this.#unsubscribe = logs.subscribe((record) => {
      this.#records.push(record);
      if (this.#records.length > this.#capacity * 2) {
        this.#first += this.#records.length - this.#capacity;
        this.#records.splice(0, this.#records.length - this.#capacity);
      }
      this.#wake();
    });
  }

  /** Records from the oldest kept one on, for ever; ends when a signal aborts or the ring closes. */
  async *read(...signals: readonly AbortSignal[]): AsyncGenerator<LogStreamResponse, void, undefined> {
    let next = this.#first;
    const wake = () => this.#wake();
    for (const signal of signals) signal.addEventListener("abort", wake, { once: true });
    try {
      while (!signals.some(({ aborted }) => aborted) && !this.#closed) {
        if (next < this.#first) {
          yield missed(this.#first - next);
          next = this.#first;
        }
        const record = this.#records[next - this.#first];
        if (record === undefined) {
          await new Promise<void>((resolve) => this.#wakers.add(resolve));
          continue;
        }
        next += 1;
        yield toWireRecord(record);
      }
    } finally {
      for (const signal of signals) signal.removeEventListener("abort", wake);
    }
  }

  close(): void {
    this.#closed = true;
    this.#unsubscribe();
    this.#wake();
  }

  #wake(): void {
    if (this.#wakers.size === 0) return;
    const wakers = [...this.#wakers];
    this.#wakers.clear();
    for (const waker of wakers) waker();
  }
}

function missed(count: number): LogStreamResponse {
  return toWireRecord({
    time: new Date(),
    severity: "WARNING",
    message: `${count} log records are missing here: the reader was too slow`,
    source: "system",
    logger: "session",
  });
}

function toWireRecord(record: LogRecord): LogStreamResponse {
  const structuredFields: Record<string, string> = {};
  for (const [key, value] of Object.entries(record.fields ?? {})) structuredFields[key] = String(value);
  return {
    uuid: "",
    severity: record.severity,
    message: record.message.slice(0, longestMessage),
    source: wireSources[record.source],
    driverType: record.driverType,
    operation: record.operation,
    timestamp: record.time,
    structuredFields,
  };
}
