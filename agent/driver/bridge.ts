import type { Duplex } from "node:stream";
import type { Cancellable } from "./driver.ts";
import type { LogBus, Logger } from "./log.ts";

/** One driver behind a bridge, as the process behind it reports it. */
export interface BridgedReport {
  readonly uuid: string;
  /** Undefined for the bridge's own driver. */
  readonly parentUuid?: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly description?: string | undefined;
  readonly methodsDescription: Readonly<Record<string, string>>;
}

/**
 * A driver, with all below it, that another process runs. Calls go there as they came and come back as they are
 * answered: whoever calls names the driver there by its uuid, and nobody here reads arguments or results.
 */
export interface Bridge {
  /** What is there, as it was told last: the bridge's own driver first, parents before children; empty before the first time. */
  readonly reports: readonly BridgedReport[];
  /** Python client class of the bridge's own driver, as soon as it is known. */
  readonly client: string | undefined;
  /** @param message an encoded DriverCallRequest. @returns an encoded DriverCallResponse */
  call(message: Uint8Array, caller: Cancellable): Promise<Uint8Array>;
  /** @param message an encoded StreamingDriverCallRequest. Leaving the loop early cancels the call. */
  streamingCall(message: Uint8Array, caller: Cancellable): AsyncGenerator<Uint8Array, void, undefined>;
  /** Opens a byte stream of a driver, or lends a resource. @param request the JSON that says which */
  stream(request: object, caller: Cancellable): Promise<BridgedStream>;
}

export interface BridgedStream {
  /** gRPC messages of RouterService.Stream with their prefixes, cut anywhere. It fails with what the call fails with. Whoever gets it destroys it. */
  readonly stream: Duplex;
  /** Who reads the stream may give a chunk back when it is done with it: its memory is used again. */
  readonly release?: (chunk: Buffer) => void;
  /** Initial metadata; keys in lower case. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** What a bridge is made of, before anything is opened. */
export interface BridgeContext<C> {
  readonly config: C;
  /** Dotted path from the root. */
  readonly path: string;
  readonly uuid: string;
  readonly log: Logger;
  /** For the records of the other process. */
  readonly logs: LogBus;
  /** Aborted when the driver closes for good. */
  readonly signal: AbortSignal;
  /** The other process has come or gone: the driver looks at it, or opens it. */
  readonly changed: () => void;
}
