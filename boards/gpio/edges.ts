/** One change of a line. */
export interface Edge {
  readonly rising: boolean;
  /** The host's monotonic clock, that of process.hrtime. */
  readonly timestampNs: bigint;
  /** Edges of this line since the last one that nobody can tell any more. */
  readonly missed: number;
}

/** Tells the edges of a line, to one at a time, from now on. @returns takes it back */
export type EdgeSource = (onEdges: (edges: readonly Edge[]) => void, onLost: (error: Error) => void) => () => void;

interface Listener {
  readonly onEdge: (edge: Edge) => void;
  readonly onLost: (error: Error) => void;
  readonly sinceNs: bigint;
}

/** Many who wait for the edges of one line; while nobody does, nothing is asked. */
export class Edges {
  readonly #source: EdgeSource;
  readonly #listeners = new Set<Listener>();
  #stop: (() => void) | undefined;

  constructor(source: EdgeSource) {
    this.#source = source;
  }

  /** Every edge that happens from now on: what the kernel still has from before is not told. @returns takes it back */
  listen(onEdge: Listener["onEdge"], onLost: Listener["onLost"]): () => void {
    const listener = { onEdge, onLost, sinceNs: process.hrtime.bigint() };
    this.#stop ??= this.#source(
      (edges) => {
        for (const edge of edges) {
          for (const each of [...this.#listeners]) if (edge.timestampNs >= each.sinceNs) each.onEdge(edge);
        }
      },
      (error) => this.end(error),
    );
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      this.#stop?.();
      this.#stop = undefined;
    };
  }

  /** Nobody will be told any more: the line is closed, or has gone. */
  end(error: Error): void {
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    this.#stop?.();
    this.#stop = undefined;
    for (const { onLost } of listeners) onLost(error);
  }
}

const lookEveryMs = 5;

/** Edges of a line that can only be looked at: pulses shorter than 5 ms may be missed, and times are those of the look. */
export function pollEdges(isActive: () => Promise<boolean>): EdgeSource {
  return (onEdges, onLost) => {
    let last: boolean | undefined;
    let timer: NodeJS.Timeout | undefined;
    let over = false;
    const look = async () => {
      try {
        const active = await isActive();
        if (over) return;
        if (last !== undefined && active !== last) {
          onEdges([{ rising: active, timestampNs: process.hrtime.bigint(), missed: 0 }]);
        }
        last = active;
        timer = setTimeout(() => void look(), lookEveryMs);
      } catch (error) {
        if (!over) onLost(error as Error);
      }
    };
    void look();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  };
}
