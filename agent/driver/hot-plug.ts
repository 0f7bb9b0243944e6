import { watchUevents } from "../sys/uevents.ts";
import type { Logger } from "./log.ts";

/** After the last of a burst of events: one plug makes dozens, and nodes in /dev come a moment later. */
const settleMs = 100;
/** How often it is looked without an event: where the kernel's events cannot be had, or a device needs a while to answer. */
const lookAgainMs = 2_000;

/** Calls back when devices may have come or gone, and every two seconds. One for all exporters of a process. */
export class HotPlug {
  readonly #log: Logger;
  readonly #listeners = new Set<() => void>();
  #stop: Promise<() => void> | undefined;
  #settling: NodeJS.Timeout | undefined;
  #again: NodeJS.Timeout | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** @returns takes it back */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    this.#stop ??= this.#watch();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.close();
    };
  }

  close(): void {
    clearTimeout(this.#settling);
    clearInterval(this.#again);
    void this.#stop?.then((stop) => stop());
    this.#stop = undefined;
  }

  async #watch(): Promise<() => void> {
    this.#again = setInterval(() => this.#changed(), lookAgainMs).unref();
    try {
      return await watchUevents(() => {
        clearTimeout(this.#settling);
        this.#settling = setTimeout(() => this.#changed(), settleMs).unref();
      });
    } catch (error) {
      this.#log.debug(`no events of devices, they are looked for every ${lookAgainMs / 1_000} s: ${String(error)}`);
      return () => {};
    }
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}
