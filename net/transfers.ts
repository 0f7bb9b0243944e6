/** A file on its way between a board and this host, as a list of what goes on shows it. */
export interface RunningTransfer {
  readonly protocol: "tftp" | "http";
  /** Name of the view that serves it. */
  readonly view: string;
  /** Address and port of the board. */
  readonly peer: string;
  /** As the board asked for it. */
  readonly name: string;
  readonly direction: "to-board" | "from-board";
  /** Undefined where it is not known before the end. */
  readonly sizeBytes: number | undefined;
  /** So far, and taken by the other side. */
  readonly movedBytes: number;
  /** By the monotonic clock of `performance.now()`. */
  readonly startedMs: number;
}
