import type { CanLink } from "../../agent/sys/can-link.ts";

/** A frame as drivers of the CAN family hand it on; never changed once it is made. */
export interface CanFrame {
  /** 11 or 29 bits of arbitration id; the error class of an error frame. */
  readonly id: number;
  readonly extended: boolean;
  readonly remote: boolean;
  readonly error: boolean;
  readonly fd: boolean;
  readonly bitrateSwitch: boolean;
  readonly errorStateIndicator: boolean;
  /** Empty for a remote frame. */
  readonly data: Uint8Array;
  /** Requested length of a remote frame in bytes, else `data.length`. */
  readonly dlc: number;
  /** Seconds since the epoch; of a received frame, when it came. */
  readonly timestampS: number;
  readonly channel: string | number | null;
  /** Received, but made on this host: by another program, or another driver. */
  readonly sentHere?: boolean | undefined;
}

/** Passes frames whose id equals `id` in the bits of `mask`. */
export interface CanFilter {
  readonly id: number;
  readonly mask: number;
  /** Only frames with ids of this length; undefined passes both. */
  readonly extended?: boolean | undefined;
}

export interface CanSendOptions {
  /** How long to wait for room in the interface's queue; 0 or less does not wait. Default 1 s. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How the controller stands: ISO 11898-1 fault confinement, as far as the interface tells. */
export type CanState = "error-active" | "error-warning" | "error-passive" | "bus-off" | "stopped";

/** One end of a CAN bus. Each has its own reception; what it sends, all others on the bus receive, and it does not. */
export interface CanBus {
  /** What python-can says of such a bus. */
  readonly channelInfo: string;
  /** True if frames of more than 8 bytes can be sent. */
  readonly fd: boolean;
  /**
   * Hands a frame to the interface; frames leave in the order of the calls.
   * @throws AgentError E_TIMEOUT if the interface takes none in time, E_INVALID if it never takes this one, E_IO;
   *   DeviceOffline if the interface is gone or down; the signal's reason
   */
  send(frame: CanFrame, options?: CanSendOptions): Promise<void>;
  /**
   * Every frame received from now on, in order; `onLost` once when the interface has gone, after which there are none.
   * Neither may throw. @returns takes it back
   */
  listen(onFrame: (frame: CanFrame) => void, onLost?: (error: Error) => void): () => void;
  /**
   * From now on receives only what one of these lets through; null receives everything. Absent where the interface cannot filter.
   * @throws AgentError E_LIMIT for more filters than the interface takes
   */
  setFilters?(filters: readonly CanFilter[] | null): void;
  state(): Promise<CanState>;
  /** What the system says of the interface. Absent where it knows none. @throws DeviceOffline */
  link?(): CanLink;
  /** Ends bus-off. Absent where it cannot be. @throws AgentError E_FAILED if it is not bus-off, E_IO without the rights */
  restart?(): void;
  /** Received frames that the system threw away, as nobody fetched them in time. */
  readonly lostFrames: number;
  /** Nothing is received or sent any more. Idempotent. */
  close(): void;
}
