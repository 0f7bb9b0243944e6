import type { Outcome } from "./outcome.ts";
import type { Terms } from "./options.ts";
import type { ErrorCode, Request } from "./protocol.ts";
import type { TftpLimits, TftpView } from "./view.ts";

/** One running transfer, whichever way the file goes: {@link Transfer} or {@link Reception}. */
export interface Machine {
  /** True until the client has answered for the first time. */
  readonly unanswered: boolean;
  /** True if the client may have gone. */
  readonly quiet: boolean;
  /** The file has arrived; only a repeated last packet is still answered. */
  readonly lingering: boolean;
  /** Payload that the receiving side has. */
  readonly movedBytes: number;
  /** Packets that were sent again. */
  readonly repeats: number;
  /** Sends the first packet. */
  start(): void;
  /** Takes a packet of the client. */
  receive(packet: Uint8Array): void;
  /** Sends the first packet again, because the client repeated its request. */
  repeatFirst(): void;
  /** Ends the transfer and tells the client why. */
  abort(message: string, reason?: string): void;
  /** Ends the transfer without a word, and frees its file. Idempotent. */
  close(): void;
}

export interface MachineEvents {
  readonly send: (packets: Uint8Array, strideBytes?: number) => void;
  /** How it ended; called once. */
  readonly onOutcome: (outcome: Outcome) => void;
  /** Nothing of the client is waited for any more; called once, after the outcome. */
  readonly onEnd: () => void;
}

/** A request that can be fulfilled. */
export interface Prepared {
  readonly terms: Terms;
  /** Undefined where it is not known before the end. */
  readonly sizeBytes: number | undefined;
  run(events: MachineEvents): Machine;
  /** Frees what is held for a machine that will not run. */
  discard(): Promise<void>;
}

export type Refused = { readonly refused: readonly [code: ErrorCode, message: string] };

export interface Asked {
  readonly request: Request;
  readonly view: TftpView;
  readonly limits: TftpLimits;
}
