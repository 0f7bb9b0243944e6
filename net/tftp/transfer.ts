import { performance } from "node:perf_hooks";
import type { BlockQueue } from "./blocks.ts";
import { Deadline } from "./deadline.ts";
import type { Machine } from "./machine.ts";
import type { Outcome } from "./outcome.ts";
import { blockDistance, buildError, errorCode, opcode, parsePacket, type Rollover } from "./protocol.ts";
import { RoundTrip, type RetransmissionLimits } from "./rtt.ts";

export interface TransferOptions {
  readonly blocks: BlockQueue;
  readonly windowSize: number;
  readonly rollover: Rollover;
  /** The OACK to begin with; without one, DATA 1 is the beginning. */
  readonly oack: Uint8Array | undefined;
  /** Sends the packets that lie in `packets` side by side, each of `strideBytes` but perhaps the last; else a single one. */
  readonly send: (packets: Uint8Array, strideBytes?: number) => void;
  /** Called once. */
  readonly onEnd: (outcome: Outcome) => void;
  readonly retransmission: RetransmissionLimits;
  /** The client made no progress for so long. */
  readonly silenceMs: number;
  /** Longest life of a transfer, however busy. */
  readonly totalMs: number;
}

type Phase = "offering" | "sending" | "ended";

/** From then on a peer that is not heard of may have forgotten the transfer. */
const quietAfterMs = 1_000;

/**
 * Pause before a window where copies of the last one may still wait at the client. U-Boot reports a gap as soon as it
 * sees it, with the rest of the window still in its receive ring; another window at once on top of that can fill the
 * 32 buffers of its virtio-net, which then hangs until the board is reset.
 */
const drainMs = 5;

/**
 * One file on its way to one client (a read request): offers the OACK, then sends windows of DATA until the last block is
 * acknowledged (RFC 1350, 7440; a window of 1 is plain TFTP).
 *
 * The retransmission timer is our own. U-Boot asks for `timeout=5`, repeats its ACK only every 5 s and gives up after
 * ten timeouts in all, so a server that obeys loses the race once per lost packet, and ten of them cost the file.
 *
 * Duplicates of an ACK are never answered at window 1 (Sorcerer's Apprentice, RFC 1123 4.2.3.1). In a larger window
 * the same ACK may tell of a lost first block; see {@link Transfer.receive}.
 */
export class Transfer implements Machine {
  readonly #options: TransferOptions;
  readonly #roundTrip: RoundTrip;
  readonly #startedMs = performance.now();
  #phase: Phase;
  /** Highest acknowledged block; blocks are counted from 1 without wrapping. */
  #acknowledged = 0;
  /** Highest block sent of the current window. */
  #sent = 0;
  /** When the first packet of the current window was sent. */
  #windowSentMs = 0;
  /** The current window (or the OACK) was sent more than once, so its ACK measures nothing. */
  #repeated = false;
  /** The client drops what is left of a window; the next one follows when the pause is over. */
  #draining = false;
  /** Blocks up to this one were repeated by the timer, so each may be acknowledged twice. */
  #echoOf = -1;
  /** A duplicate ACK has restarted the window after this block. */
  #restartedAfter = -1;
  #progressMs = this.#startedMs;
  readonly #deadline = new Deadline((now) => this.#onTime(now));
  #answered = false;
  /** DATA packets that were sent again. */
  repeats = 0;

  constructor(options: TransferOptions) {
    this.#options = options;
    this.#roundTrip = new RoundTrip(options.retransmission);
    this.#phase = options.oack === undefined ? "sending" : "offering";
  }

  /** Sends the first packet. */
  start(): void {
    this.#options.blocks.readAhead();
    this.#sendWindow();
  }

  /** Payload that is acknowledged; full blocks, so at the end of the file it may be more than there is. */
  get movedBytes(): number {
    return this.#acknowledged * this.#options.blocks.blockSizeBytes;
  }

  /** True until the client has answered for the first time. */
  get unanswered(): boolean {
    return !this.#answered;
  }

  /** True if the client may have gone: nothing was heard for a while, or only the last ACK is missing. */
  get quiet(): boolean {
    return this.#sent === this.#options.blocks.last || performance.now() - this.#progressMs > quietAfterMs;
  }

  /** The last ACK is not acknowledged, so nothing is waited for. */
  get lingering(): boolean {
    return false;
  }

  /** Sends the first packet again, because the client repeated its request. */
  repeatFirst(): void {
    if (this.#phase === "ended") return;
    this.#repeated = true;
    this.#sent = this.#acknowledged;
    this.#sendWindow();
  }

  /** Takes a packet of the client. Anything but ACK and ERROR is ignored: noise must not end a transfer. */
  receive(packet: Uint8Array): void {
    if (this.#phase === "ended" || packet.length < 4 || packet[0] !== 0) return;
    if (packet[1] === opcode.ack) return this.#onAck(((packet[2] ?? 0) << 8) | (packet[3] ?? 0));
    if (packet[1] !== opcode.error) return;
    const error = parsePacket(packet);
    if (error.op === "error") this.#end({ kind: "refused", code: error.code, message: error.message });
  }

  /** The queue has new packets, or cannot have them. */
  ready(failure?: unknown): void {
    if (this.#phase === "ended") return;
    if (failure !== undefined) {
      const reason = failure instanceof Error ? failure.message : "read error";
      this.abort("Read error on the server", reason);
    } else if (this.#phase === "sending") this.#sendWindow();
  }

  /** Ends the transfer and tells the client why. */
  abort(message: string, reason = message): void {
    if (this.#phase === "ended") return;
    this.#options.send(buildError(errorCode.undefined, message));
    this.#end({ kind: "failed", reason });
  }

  #onAck(number: number): void {
    const now = performance.now();
    if (this.#phase === "offering") {
      if (number !== 0) return;
      this.#phase = "sending";
      this.#progress(now);
      this.#sendWindow();
      return;
    }
    const ahead = blockDistance(this.#acknowledged, number, this.#options.rollover);
    const outstanding = this.#sent - this.#acknowledged;
    if (ahead === 0) return this.#onDuplicateAck(now);
    // Neither a number that was not sent yet nor an old one says anything about this window.
    if (ahead < 0 || ahead > outstanding) return;
    const mayHaveCopies = this.#repeated && this.#options.windowSize > 1;
    this.#acknowledged += ahead;
    this.#progress(now);
    const { blocks } = this.#options;
    blocks.acknowledge(this.#acknowledged);
    if (this.#acknowledged === blocks.last) return this.#end({ kind: "complete" });
    if (now - this.#startedMs > this.#options.totalMs) return this.abort("The transfer took too long");
    // Below the window's end, the rest is sent again: the client drops it (RFC 7440 section 4).
    if (ahead < outstanding || mayHaveCopies) this.#drain(now);
    else this.#nextWindow();
  }

  /**
   * The ACK before this window, once more. With a window of 1 it is an echo. In a larger window it is the only way in
   * which a client can tell that the first block is lost, so it restarts the window: once, not if the last window was
   * repeated by the timer (then each copy is acknowledged), and not if it came sooner than any answer can.
   */
  #onDuplicateAck(now: number): void {
    if (this.#options.windowSize === 1 || this.#sent === this.#acknowledged || this.#draining) return;
    if (this.#restartedAfter === this.#acknowledged || this.#echoOf === this.#acknowledged) return;
    if (now - this.#windowSentMs < this.#roundTrip.shortestMs) return;
    this.#restartedAfter = this.#acknowledged;
    this.#drain(now);
  }

  #progress(now: number): void {
    this.#answered = true;
    if (!this.#repeated) this.#roundTrip.sample(now - this.#windowSentMs);
    this.#roundTrip.heard();
    this.#repeated = false;
    this.#progressMs = now;
  }

  #drain(now: number): void {
    this.#draining = true;
    this.#deadline.set(now + drainMs, now);
  }

  /** Sends the window behind the last acknowledged block; what was sent of it before is repeated. */
  #nextWindow(): void {
    this.#draining = false;
    this.#repeated = this.#sent > this.#acknowledged;
    this.repeats += this.#sent - this.#acknowledged;
    this.#sent = this.#acknowledged;
    this.#sendWindow();
  }

  /** Sends what the window still allows and the queue has; the rest follows when the queue is ready. */
  #sendWindow(): void {
    if (this.#draining) return;
    const { blocks, windowSize, oack, send } = this.#options;
    const isFirst = this.#sent === this.#acknowledged;
    if (this.#phase === "offering" && oack !== undefined) send(oack);
    else {
      const end = Math.min(this.#acknowledged + windowSize, blocks.last ?? Infinity);
      const before = this.#sent;
      while (this.#sent < end) {
        const packets = blocks.packets(this.#sent + 1, end - this.#sent);
        if (packets === undefined) break;
        this.#sent += Math.ceil(packets.length / blocks.strideBytes);
        send(packets, blocks.strideBytes);
      }
      if (this.#sent === before) return;
    }
    const now = performance.now();
    if (isFirst) this.#windowSentMs = now;
    this.#deadline.set(now + this.#roundTrip.timeoutMs, now);
  }

  #onTime(now: number): void {
    const { silenceMs, totalMs } = this.#options;
    if (this.#draining) return this.#nextWindow();
    // The next block is still being read; it sets a deadline of its own.
    if (this.#phase === "sending" && this.#sent === this.#acknowledged) return;
    if (now - this.#startedMs > totalMs) return this.abort("The transfer took too long");
    if (now - this.#progressMs > silenceMs) {
      return this.abort("No answer", `no answer for ${Math.round((now - this.#progressMs) / 1000)} s`);
    }
    this.#roundTrip.lost();
    this.#echoOf = this.#sent;
    this.#nextWindow();
    // Of an OACK nothing is outstanding, and still it was sent twice.
    this.#repeated = true;
  }

  #end(outcome: Outcome): void {
    this.close();
    this.#options.onEnd(outcome);
  }

  /** Ends the transfer without a word, and closes the file. Idempotent. */
  close(): void {
    this.#phase = "ended";
    this.#deadline.clear();
    this.#options.blocks.close();
  }
}
