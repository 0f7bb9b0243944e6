import { performance } from "node:perf_hooks";
import { Deadline } from "./deadline.ts";
import type { Machine } from "./machine.ts";
import type { Outcome } from "./outcome.ts";
import {
  blockNumber,
  blockDistance,
  buildAck,
  buildError,
  errorCode,
  headerBytes,
  opcode,
  parsePacket,
  type ErrorCode,
  type Rollover,
} from "./protocol.ts";
import { RoundTrip, type RetransmissionLimits } from "./rtt.ts";

export interface ReceptionOptions {
  readonly blockSizeBytes: number;
  readonly windowSize: number;
  readonly rollover: Rollover;
  /** The OACK to begin with; without one, ACK 0 is the beginning. */
  readonly oack: Uint8Array | undefined;
  /** What a file may have at most as it is sent, and what a client is told that sends more. */
  readonly limit: { readonly bytes: number; readonly message: string };
  readonly store: Store;
  readonly send: (packet: Uint8Array) => void;
  /** Called once. */
  readonly onOutcome: (outcome: Outcome) => void;
  /** Called once, when the client is not waited for any more. */
  readonly onEnd: () => void;
  readonly retransmission: RetransmissionLimits;
  /** The client made no progress for so long. */
  readonly silenceMs: number;
  /** Longest life of a transfer, however busy. */
  readonly totalMs: number;
}

/** Where the payload goes. It tells by {@link Reception.ready}, `stored` and `fail` how it goes on. */
export interface Store {
  /** It has more to write than it wants to keep in memory, and will call `ready`. */
  readonly isFull: boolean;
  write(payload: Uint8Array): void;
  /** Everything was written: put it into place, then call `stored`. */
  finish(): void;
  /** What is not in its place by now is taken away. Idempotent. */
  close(): void;
}

type Phase = "receiving" | "finishing" | "dallying" | "ended";

/** From then on a peer that is not heard of may have forgotten the transfer. */
const quietAfterMs = 1_000;

/** How long a repeated last block is still acknowledged (RFC 1350 section 6): the slowest clients repeat it after 5 s. */
const dallyMs = 6_000;

/**
 * One file on its way from one client (a write request): acknowledges windows of DATA until the last block is stored
 * (RFC 1350, 7440; a window of 1 is plain TFTP).
 *
 * The last ACK is sent when the file is in its place, so a client that has it may rely on it.
 */
export class Reception implements Machine {
  readonly #options: ReceptionOptions;
  readonly #roundTrip: RoundTrip;
  readonly #startedMs = performance.now();
  #phase: Phase = "receiving";
  /** Highest block received in order; blocks are counted from 1 without end. */
  #received = 0;
  /** The client sends up to this block before it waits for an ACK. */
  #windowEnd: number;
  /** A gap behind `#received` has been told to the client. */
  #gapReported = false;
  /** An ACK is due as soon as the store has room. */
  #owesAck = false;
  #ackSentMs = 0;
  /** The last ACK was sent more than once, so what follows it measures nothing. */
  #repeated = false;
  #progressMs = this.#startedMs;
  readonly #deadline = new Deadline((now) => this.#onTime(now));
  /** Payload received in order. */
  movedBytes = 0;
  /** ACKs that were sent again. */
  repeats = 0;

  constructor(options: ReceptionOptions) {
    this.#options = options;
    this.#roundTrip = new RoundTrip(options.retransmission);
    this.#windowEnd = options.windowSize;
  }

  /** Sends the first packet. */
  start(): void {
    this.#acknowledge();
  }

  /** True until the client has answered for the first time. */
  get unanswered(): boolean {
    return this.#received === 0;
  }

  /** True if the client may have gone: nothing was heard for a while, or only a repeated last block may still come. */
  get quiet(): boolean {
    return this.lingering || (this.#phase === "receiving" && performance.now() - this.#progressMs > quietAfterMs);
  }

  get lingering(): boolean {
    return this.#phase === "dallying";
  }

  /** Sends the first packet again, because the client repeated its request. */
  repeatFirst(): void {
    if (this.#phase === "receiving" && this.#received === 0) this.#repeatAck();
  }

  /** Takes a packet of the client. Anything but DATA and ERROR is ignored: noise must not end a transfer. */
  receive(packet: Uint8Array): void {
    if (this.#phase === "ended" || packet.length < headerBytes || packet[0] !== 0) return;
    if (packet[1] === opcode.data) {
      return this.#onData(((packet[2] ?? 0) << 8) | (packet[3] ?? 0), packet.subarray(headerBytes));
    }
    if (packet[1] !== opcode.error) return;
    const error = parsePacket(packet);
    // An ERROR after the end takes nothing back.
    if (this.#phase === "dallying") this.#leave();
    else if (error.op === "error") this.#end({ kind: "refused", code: error.code, message: error.message });
  }

  /** The store has room again. */
  ready(): void {
    if (this.#phase === "receiving" && this.#owesAck) this.#acknowledge();
  }

  /** The file is in its place. */
  stored(): void {
    if (this.#phase !== "finishing") return;
    this.#phase = "dallying";
    this.#acknowledge();
    const now = performance.now();
    this.#deadline.set(now + dallyMs, now);
    this.#options.onOutcome({ kind: "complete" });
  }

  /** The file cannot be stored. */
  fail(code: ErrorCode, message: string, reason = message): void {
    if (this.#phase === "ended" || this.#phase === "dallying") return;
    this.#options.send(buildError(code, message));
    this.#end({ kind: "failed", reason });
  }

  /** Ends the transfer and tells the client why. */
  abort(message: string, reason = message): void {
    this.fail(errorCode.undefined, message, reason);
  }

  #onData(number: number, payload: Uint8Array): void {
    const { windowSize, rollover } = this.#options;
    if (this.#phase === "finishing") return;
    const ahead = blockDistance(this.#received, number, rollover);
    if (ahead === 1 && this.#phase === "receiving") this.#accept(payload);
    else if (ahead > 1 && ahead <= windowSize) this.#onGap();
    else if (ahead <= 0 && ahead > -windowSize && this.#received + ahead > 0) this.#onRepeated(this.#received + ahead);
  }

  #accept(payload: Uint8Array): void {
    const { blockSizeBytes, windowSize, limit, store, totalMs } = this.#options;
    if (payload.length > blockSizeBytes) return this.fail(errorCode.illegalOperation, "DATA is longer than a block");
    const now = performance.now();
    if (this.#received === this.#windowEnd - windowSize && !this.#repeated) {
      this.#roundTrip.sample(now - this.#ackSentMs);
    }
    this.#roundTrip.heard();
    this.#repeated = false;
    this.#progressMs = now;
    this.#gapReported = false;
    this.#received += 1;
    this.movedBytes += payload.length;
    if (this.movedBytes > limit.bytes) return this.fail(errorCode.diskFull, limit.message);
    store.write(payload);
    if (payload.length < blockSizeBytes) {
      this.#phase = "finishing";
      this.#deadline.clear();
      store.finish();
    } else if (now - this.#startedMs > totalMs) this.abort("The transfer took too long");
    else if (this.#received === this.#windowEnd) this.#acknowledge();
    else this.#deadline.set(now + this.#roundTrip.timeoutMs, now);
  }

  /** A block is missing: the last one in order is told, once, and the client begins a window behind it (RFC 7440). */
  #onGap(): void {
    if (this.#gapReported || this.#phase !== "receiving") return;
    this.#gapReported = true;
    this.#repeatAck();
  }

  /**
   * The client did not get the last ACK and sends its window again. It waits for an ACK at the end of that window,
   * wherever ours had begun since then.
   */
  #onRepeated(block: number): void {
    const { windowSize } = this.#options;
    const isFirst = this.#windowEnd >= this.#received + windowSize;
    if (isFirst) this.#windowEnd = Math.max(this.#received, block + windowSize - 1);
    if (block < this.#received) return;
    // The file's last window may be shorter.
    if (this.#windowEnd === this.#received || this.#phase === "dallying") this.#repeatAck();
  }

  #repeatAck(): void {
    this.repeats += 1;
    this.#repeated = true;
    this.#acknowledge();
  }

  #acknowledge(): void {
    const { oack, send, store, windowSize, rollover } = this.#options;
    this.#windowEnd = this.#received + windowSize;
    this.#owesAck = store.isFull && this.#phase === "receiving";
    if (this.#owesAck) return;
    send(this.#received === 0 && oack !== undefined ? oack : buildAck(blockNumber(this.#received, rollover)));
    const now = performance.now();
    this.#ackSentMs = now;
    if (this.#phase === "receiving") this.#deadline.set(now + this.#roundTrip.timeoutMs, now);
  }

  #onTime(now: number): void {
    const { silenceMs, totalMs } = this.#options;
    if (this.#phase === "dallying") return this.#leave();
    // It is the store that is waited for.
    if (this.#owesAck) return;
    if (now - this.#startedMs > totalMs) return this.abort("The transfer took too long");
    if (now - this.#progressMs > silenceMs) {
      return this.abort("No answer", `no answer for ${Math.round((now - this.#progressMs) / 1000)} s`);
    }
    this.#roundTrip.lost();
    this.#gapReported = false;
    this.#repeatAck();
  }

  #end(outcome: Outcome): void {
    this.close();
    this.#options.onOutcome(outcome);
    this.#options.onEnd();
  }

  #leave(): void {
    this.close();
    this.#options.onEnd();
  }

  /** Ends the transfer without a word; a file that is not in its place is taken away. Idempotent. */
  close(): void {
    this.#phase = "ended";
    this.#deadline.clear();
    this.#options.store.close();
  }
}
