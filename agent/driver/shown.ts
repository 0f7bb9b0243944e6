/** What drivers let the host's operator see of what they do. Looked at while somebody watches, so it must cost nothing else. */

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

/** A transfer that is over. */
export interface EndedTransfer extends Pick<RunningTransfer, "protocol" | "direction" | "movedBytes"> {
  /** `refused`: we said no; `aborted`: the board went away, or was told to; `failed`: something broke. */
  readonly outcome: "complete" | "refused" | "aborted" | "failed";
}

/** A medium that this host is writing. */
export interface RunningFlash {
  /** As its client named it; undefined for a stream. */
  readonly image: string | undefined;
  /** Path of the disk; undefined until it has appeared. */
  readonly target: string | undefined;
  /** Where it is, in the words of receipts: `write`, `verify`, … */
  readonly step: string;
  /** Of this step. */
  readonly movedBytes: number;
  /** Undefined where it is not known yet, or the step moves nothing. */
  readonly sizeBytes: number | undefined;
  /** Estimated, of this step. */
  readonly remainingMs: number | undefined;
  /** By the monotonic clock of `performance.now()`. */
  readonly startedMs: number;
}

/** A piece of a console's record: what the board printed, whole lines or a part of one, or what happened around it. */
export interface ConsoleEntry {
  /** Counts the entries of a console, over restarts of the agent too. */
  readonly seq: number;
  /** RFC 3339 */
  readonly time: string;
  readonly text?: string | undefined;
  readonly note?: string | undefined;
}

/** Which entries are wanted. */
export interface ConsoleRequest {
  /** From this number on. */
  readonly from?: number;
  /** Only about so many of the last lines. */
  readonly lines?: number;
  /** Goes on with what comes, until the signal aborts. */
  readonly follow: boolean;
}

/** A console as the operator sees it, whoever leases the board. */
export interface ShownConsole {
  /** `recording`, or why it is not recorded now. */
  readonly state: string;
  /** Since the agent started. */
  readonly counts: { readonly receivedBytes: number; readonly sentBytes: number; readonly lines: number };
  /** What was recorded; absent where the configuration says that nothing is. */
  readonly read?: (request: ConsoleRequest, signal: AbortSignal) => AsyncIterable<ConsoleEntry>;
}

/** What one driver shows now. */
export interface Shown {
  readonly transfers?: readonly RunningTransfer[];
  readonly flash?: RunningFlash | undefined;
  readonly console?: ShownConsole;
}
