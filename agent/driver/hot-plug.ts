import { watchPlugs } from "../sys/plug-events.ts";
import type { Logger } from "./log.ts";

/** One plug makes dozens of events, and nodes in /dev come a moment later. */
const settleMs = 100;
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
    this.#settling = undefined;
    for (const timer of this.#watching?.timers ?? []) clearInterval(timer);
    void this.#watching?.stop.then((stop) => stop());
    this.#watching = undefined;
  }

  async #watch(): Promise<() => void> {
    try {
      return await this.#watchEvents(() => {
        this.#settling ??= setTimeout(() => {
          this.#settling = undefined;
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
