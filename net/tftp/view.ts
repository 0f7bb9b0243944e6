import type { View } from "../views.ts";

/** What a board may read over TFTP. */
export interface TftpView extends View {
  readonly limits?: Partial<TftpLimits>;
}

/** Of one view. */
export interface TftpLimits {
  /** Largest RFC 7440 window. U-Boot's virtio-net has 32 receive buffers and hangs for good when they overflow. */
  readonly windowSize: number;
  readonly transfers: number;
  /** Of `transfers`, how many one address may have. */
  readonly transfersPerPeer: number;
  /** A client without progress for so long is given up. */
  readonly silenceMs: number;
  readonly totalMs: number;
}

export const defaultLimits: TftpLimits = {
  windowSize: 16,
  transfers: 128,
  transfersPerPeer: 64,
  silenceMs: 30_000,
  totalMs: 3_600_000,
};
