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
  /** Shortest wait before a packet is sent again; see {@link retransmission}. */
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
  retransmitFloorMs: 20,
  retransmitWindowFloorMs: 100,
  retransmitCeilingMs: 2_000,
};

/**
 * A single block that comes twice costs a board nothing. Windows that are repeated while it is busy pile up in its
 * receive ring, so they are given more time; most of their losses the client tells by itself.
 */
export function retransmission(limits: TftpLimits, windowSize: number): RetransmissionLimits {
  const floorMs = windowSize === 1 ? limits.retransmitFloorMs : limits.retransmitWindowFloorMs;
  return { floorMs, ceilingMs: limits.retransmitCeilingMs };
}
