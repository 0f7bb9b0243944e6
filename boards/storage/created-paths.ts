import { posix } from "node:path";
import type { Logger } from "../../agent/driver/log.ts";
import { isNotFound, type Store } from "./store/store.ts";
import { directoryKey, parsePath, reportedForm, type StorePath } from "./store/path.ts";

/**
 * What a lease created in a store. It keeps two books: what clients are told (as the Python exporter
 * tells it), and what is really removed at the end: only files that were written, and directories that
 * did not exist before, these only if nothing else was put into them.
 */
export class CreatedPaths {
  readonly #reported = new Set<string>();
  /** By `a/b`, without a slash at the end. */
  readonly #removable = new Map<string, StorePath>();

  get reported(): string[] {
    return [...this.#reported];
  }

  addReported(given: string): void {
    this.#reported.add(reportedForm(given));
  }

  addRemovable(path: StorePath): void {
    this.#removable.set(path.segments.join("/"), path);
  }

  /** @throws AgentError E_INVALID for a path outside */
  register(given: string): void {
    this.addRemovable(parsePath(posix.normalize(given)));
    this.addReported(given);
  }

  addFile(path: StorePath): void {
    this.addReported(path.text);
    this.addRemovable(path);
  }

  moved(source: StorePath, target: StorePath): void {
    this.#reported.delete(reportedForm(source.text));
    const below = directoryKey(source);
    for (const [key, path] of [...this.#removable]) {
      if (!`${key}/`.startsWith(below)) continue;
      this.#removable.delete(key);
      this.addRemovable(parsePath(target.segments.join("/") + path.text.slice(below.length - 1)));
    }
    this.addFile(target);
  }

  removed(path: StorePath): void {
    this.#reported.delete(reportedForm(path.text));
    const below = directoryKey(path);
    for (const key of [...this.#removable.keys()]) {
      if (`${key}/`.startsWith(below)) this.#removable.delete(key);
    }
  }

  forget(): void {
    this.#reported.clear();
    this.#removable.clear();
  }

  /** Removes children before their parents. What cannot be removed is logged and left. */
  async removeFrom(store: Store, log: Logger): Promise<void> {
    const paths = [...this.#removable.values()].sort((a, b) => b.segments.length - a.segments.length);
    this.forget();
    for (const path of paths) {
      try {
        await store.delete?.(path);
      } catch (error) {
        if (isNotFound(error)) continue;
        const code = (error as NodeJS.ErrnoException).code;
        if (code === "ENOTEMPTY") log.debug(`${path.text} is left: it holds files of others`);
        else log.error(`cannot remove ${path.text}: ${(error as Error).message}`);
      }
    }
  }
}
