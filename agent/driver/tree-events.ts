import type { EndedTransfer } from "./shown.ts";

/** What happens to a tree of drivers as a whole, for a driver that keeps a record of it. */
export type TreeEvent =
  | { readonly kind: "lease"; readonly edge: "begins" | "ends" }
  /** A unary method is about to run, whoever has called it. */
  | { readonly kind: "call"; readonly path: string; readonly driverType: string; readonly method: string }
  /** It has thrown. */
  | {
      readonly kind: "failed";
      readonly path: string;
      readonly driverType: string;
      readonly method: string;
      readonly reason: string;
    }
  /** A file went between a board and this host, or should have. */
  | { readonly kind: "transfer"; readonly path: string; readonly transfer: EndedTransfer }
  /** A board has booted, so long after it was switched on. */
  | { readonly kind: "boot"; readonly path: string; readonly seconds: number };

export type TreeListener = (event: TreeEvent) => void;

/** Hands events of one tree to whoever listens. Listeners must not throw. */
export class TreeEvents {
  readonly #listeners = new Set<TreeListener>();

  /** @returns takes it back */
  listen(listener: TreeListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tell(event: TreeEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
