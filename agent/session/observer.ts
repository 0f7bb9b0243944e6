import type { ErrorCode } from "../driver/error-codes.ts";
import type { Caller } from "./status.ts";

/** What everything that is done in a session has in common. */
interface Done {
  readonly caller: Caller;
  /** Undefined: it went well. */
  readonly code: ErrorCode | undefined;
  /** From a monotonic clock. */
  readonly durationMs: number;
}

/** A call or stream of a driver, without what may hold secrets: arguments and results. */
export interface CallDone extends Done {
  /** Dotted path from the root; empty for the root itself. */
  readonly driver: string;
  readonly type: string;
  /** `?` if the driver does not declare it: the name is the client's then, and may be anything. */
  readonly method: string;
}

/** Payload bytes. */
interface Bytes {
  /** From the client. */
  readonly bytesIn: number;
  /** To the client. */
  readonly bytesOut: number;
}

export type StreamDone = CallDone & Bytes;
export type ResourceDone = Done & Bytes;

/** Who watches what clients and hooks do in a session; told when each thing is over. Must not throw. */
export interface SessionObserver {
  call(done: CallDone): void;
  stream(done: StreamDone): void;
  resource(done: ResourceDone): void;
}
