import { watchPlugs } from "../sys/plug-events.ts";
import type { Logger } from "./log.ts";

/** After the last of a burst: one plug makes dozens of events, and the node in /dev comes with one of the last. */
const settleMs = 100;
/** A device that never settles must not hide the others. */
const longestBurstMs = 1_000;
/** What is offline is looked for without an event, too: a device may need a while until it answers. */
const lookForOfflineMs = 2_000;
/** What works is looked at without an event, too, but seldom: in some containers events never come. */
const lookAtAllMs = 30_000;

/** Which drivers are to look at their devices. */
export type Look = "all" | "offline";

type Watch = (onChange: () => void) => Promise<() => void>;

/** Calls back when devices may have come or gone. One for all exporters of a process. */
export class HotPlug {
  readonly #log: Logger;
  readonly #watchEvents: Watch;
  readonly #listeners = new Set<(look: Look) => void>();
  #watching: { readonly stop: Promise<() => void>; readonly timers: readonly NodeJS.Timeout[] } | undefined;
  #settling: NodeJS.Timeout | undefined;
  /** When the burst began that is settling. */
  #burstSinceMs: number | undefined;

  constructor(log: Logger, watchEvents: Watch = watchPlugs) {
    this.#log = log;
    this.#watchEvents = watchEvents;
  }

  /** @returns takes it back */
  listen(listener: (look: Look) => void): () => void {
    this.#listeners.add(listener);
    this.#watching ??= {
      stop: this.#watch(),
      timers: [
        setInterval(() => this.#tell("offline"), lookForOfflineMs).unref(),
        setInterval(() => this.#tell("all"), lookAtAllMs).unref(),
      ],
    };
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.close();
    };
  }

  close(): void {
    clearTimeout(this.#settling);
    this.#burstSinceMs = undefined;
    for (const timer of this.#watching?.timers ?? []) clearInterval(timer);
    void this.#watching?.stop.then((stop) => stop());
    this.#watching = undefined;
  }

  async #watch(): Promise<() => void> {
    try {
      return await this.#watchEvents(() => {
        const now = performance.now();
        this.#burstSinceMs ??= now;
        if (now - this.#burstSinceMs > longestBurstMs) return;
        clearTimeout(this.#settling);
        this.#settling = setTimeout(() => {
          this.#burstSinceMs = undefined;
          this.#tell("all");
        }, settleMs).unref();
      });
    } catch (error) {
      this.#log.debug(`no events of devices, they are looked at every ${lookAtAllMs / 1_000} s: ${String(error)}`);
      return () => {};
    }
  }

  #tell(look: Look): void {
    for (const listener of this.#listeners) listener(look);
  }
}
