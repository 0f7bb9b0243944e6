import type { ErrorCode } from "../driver/error-codes.ts";

/** What everything that a session does has in common. */
interface Done {
  /** Undefined: it went well. */
  readonly code: ErrorCode | undefined;
  /** From a monotonic clock. */
  readonly durationMs: number;
}

/** A call or stream of a driver: never with arguments or results, which may hold secrets. */
interface DriverDone extends Done {
  /** Dotted path from the root; empty for the root itself. */
  readonly driver: string;
  readonly type: string;
  readonly method: string;
}

interface Bytes {
  /** From the client. */
  readonly bytesIn: number;
  /** To the client. */
  readonly bytesOut: number;
}

export type CallDone = DriverDone;
export type StreamDone = DriverDone & Bytes;
export type ResourceDone = Done & Bytes;

/** Who watches what clients and hooks do in a session, told when each thing is over. Must not throw. */
export interface SessionObserver {
  call(done: CallDone): void;
  stream(done: StreamDone): void;
  resource(done: ResourceDone): void;
}
