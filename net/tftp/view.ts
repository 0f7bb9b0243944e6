import type { View } from "../views.ts";
import type { RetransmissionLimits } from "./rtt.ts";

/** What a board may read and write over TFTP. */
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
  /** Shortest wait before a single block is sent again, and before a window of 16 or more; see {@link retransmission}. */
  readonly retransmitFloorMs: number;
  readonly retransmitWindowFloorMs: number;
  /**
   * Longest wait, whatever the client asked for. Longer than the second after which most clients speak for themselves:
   * some take every repeat for a sign that they need not, although it tells them nothing.
   */
  readonly retransmitCeilingMs: number;
}

export const defaultLimits: TftpLimits = {
  windowSize: 16,
  transfers: 128,
  transfersPerPeer: 64,
  silenceMs: 30_000,
  totalMs: 3_600_000,
  retransmitFloorMs: 10,
  retransmitWindowFloorMs: 100,
  retransmitCeilingMs: 2_000,
};

/** From this window on the floor is that of windows: two of them fill the 32 receive buffers of U-Boot's virtio-net. */
const fullWindow = 16;

/**
 * A single block that comes twice costs a board nothing. Windows that are repeated while it is busy pile up in its
 * receive ring, so the larger they are, the more time they are given; most of their losses the client tells by itself.
 */
export function retransmission(limits: TftpLimits, windowSize: number): RetransmissionLimits {
  const { retransmitFloorMs: least, retransmitWindowFloorMs: most } = limits;
  const part = Math.min((windowSize - 1) / (fullWindow - 1), 1);
  return { floorMs: least + part * (most - least), ceilingMs: limits.retransmitCeilingMs };
}
