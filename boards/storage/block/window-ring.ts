import type { OpenDisk } from "./disk.ts";
import { Window } from "./window.ts";

/** One is filled or digested, and two are on their way: a disk that waits for its next request does not work at its speed. */
const windows = 3;

/** A few windows that are worked on at the same time; what works on them ends in the order in which it began. */
export class WindowRing {
  readonly #free: Promise<Window>[];
  #last = Promise.resolve();

  constructor(disk: OpenDisk) {
    this.#free = Array.from({ length: windows }, async () => new Window(disk));
  }

  /** Waits for one that nobody works on, and gives it to the caller. @throws what the work on it, or any before that, failed with */
  async take(): Promise<Window> {
    const window = await this.#free.shift();
    if (window === undefined) throw new Error("all windows are taken");
    return window;
  }

  /**
   * Begins to work on a window that was taken, and gives it back after that.
   * @param work resolves after `before`, which is the work on the window before it, and rejects if that has; then nothing of it is under way
   */
  begin(window: Window, work: (before: Promise<void>) => Promise<void>): void {
    this.#last = work(this.#last);
    const free = this.#last.then(() => window);
    // Whoever comes next awaits it; until then a failure must not count as unhandled.
    free.catch(() => {});
    this.#free.push(free);
  }

  /** A window that was taken is not needed after all. */
  giveBack(window: Window): void {
    this.#free.unshift(Promise.resolve(window));
  }

  /** All work has ended. @throws what it failed with */
  async end(): Promise<void> {
    await this.#last;
  }
}
