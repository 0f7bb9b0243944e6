import { problem, type Problem } from "./problem.ts";
import { consecutiveFrameLimit, type FirstFrame, type FlowStatus, type Pdu } from "./protocol.ts";

export interface ReceiverSettings {
  /** STmin as it is on the wire, for our flow control. */
  readonly stmin: number;
  /** Consecutive frames for which one flow control is good; 0: all. */
  readonly blockSize: number;
  /** N_Cr: how long the next consecutive frame may take. */
  readonly consecutiveTimeoutMs: number;
  /** Longer messages are refused. */
  readonly longestMessageBytes: number;
  /** Only listens: somebody else answers with flow control. */
  readonly listenOnly: boolean;
}

export interface ReceiverHost {
  deliver(message: Uint8Array): void;
  /** Whether a message of this length can be taken now. */
  hasRoom(bytes: number): boolean;
  problem(problem: Problem): void;
}

/** What is set aside at first for a long message: its first frame may promise 4 GiB that never come. */
const firstBufferBytes = 65_536;

interface Reception {
  readonly messageBytes: number;
  readonly frameBytes: number;
  buffer: Uint8Array;
  receivedBytes: number;
  sequence: number;
  /** Consecutive frames of the current block. */
  blockFrames: number;
}

/** Puts messages together from the frames of one sender (9.6, 9.8.3); never delivers one that has a gap. */
export class Receiver {
  readonly #settings: ReceiverSettings;
  readonly #host: ReceiverHost;
  #reception: Reception | undefined;
  #deadlineMs: number | undefined;
  #flow: FlowStatus | undefined;

  constructor(settings: ReceiverSettings, host: ReceiverHost) {
    this.#settings = settings;
    this.#host = host;
  }

  /** When {@link onTime} has something to do. */
  get deadlineMs(): number | undefined {
    return this.#deadlineMs;
  }

  /** A flow control that must be sent now; the caller sends it. */
  takeFlow(): FlowStatus | undefined {
    const flow = this.#flow;
    this.#flow = undefined;
    return flow;
  }

  /** The flow control has left, from now on the sender's time counts. */
  flowSent(nowMs: number): void {
    if (this.#reception !== undefined) this.#deadlineMs = nowMs + this.#settings.consecutiveTimeoutMs;
  }

  /** @param prefixBytes that lay before the PDU */
  receive(pdu: Exclude<Pdu, { kind: "flow" | "invalid" }>, prefixBytes: number, nowMs: number): void {
    if (pdu.kind === "single") {
      this.#interrupted("a single frame");
      if (this.#host.hasRoom(pdu.data.length)) this.#host.deliver(Uint8Array.from(pdu.data));
      else this.#host.problem(problem("N_BUFFER_OVFLW", "dropped a message, as nobody has fetched the ones before"));
    } else if (pdu.kind === "first") {
      this.#interrupted("a first frame");
      this.#begin(pdu, nowMs);
    } else this.#continue(pdu.sequence, pdu.data, prefixBytes, nowMs);
  }

  /** Gives the reception under way up. */
  abort(why: Problem): void {
    if (this.#reception === undefined) return;
    this.reset();
    this.#host.problem(why);
  }

  /** The same without a word. */
  reset(): void {
    this.#reception = undefined;
    this.#deadlineMs = undefined;
    this.#flow = undefined;
  }

  onTime(nowMs: number): void {
    if (this.#deadlineMs === undefined || nowMs < this.#deadlineMs) return;
    const { consecutiveTimeoutMs } = this.#settings;
    this.abort(problem("N_TIMEOUT_Cr", `no consecutive frame within ${consecutiveTimeoutMs} ms`));
  }

  #interrupted(by: string): void {
    this.abort(problem("N_UNEXP_PDU", `${by} came before the last message was complete`));
  }

  #begin(first: FirstFrame, nowMs: number): void {
    const { longestMessageBytes, listenOnly, consecutiveTimeoutMs } = this.#settings;
    const { messageBytes, frameBytes, data } = first;
    if (messageBytes > longestMessageBytes || !this.#host.hasRoom(messageBytes)) {
      if (!listenOnly) this.#flow = "overflow";
      const why =
        messageBytes > longestMessageBytes
          ? `a message of ${messageBytes} bytes is longer than the ${longestMessageBytes} of max_frame_size`
          : `no room for a message of ${messageBytes} bytes, as nobody has fetched the ones before`;
      this.#host.problem(problem("N_BUFFER_OVFLW", why));
      return;
    }
    const buffer = new Uint8Array(Math.min(messageBytes, firstBufferBytes));
    buffer.set(data);
    this.#reception = { messageBytes, frameBytes, buffer, receivedBytes: data.length, sequence: 1, blockFrames: 0 };
    if (listenOnly) this.#deadlineMs = nowMs + consecutiveTimeoutMs;
    else this.#flow = "continue";
  }

  #continue(sequence: number, data: Uint8Array, prefixBytes: number, nowMs: number): void {
    const reception = this.#reception;
    // Late for a reception that has ended, or for somebody else: 9.8.3 says to ignore it.
    if (reception === undefined) return;
    const { messageBytes, frameBytes, receivedBytes } = reception;
    const missingBytes = messageBytes - receivedBytes;
    const fullBytes = consecutiveFrameLimit(frameBytes, prefixBytes);
    // Not a frame of this message: all but the last are as long as the first, and the last holds what is missing.
    if (data.length > fullBytes || data.length < Math.min(fullBytes, missingBytes)) return;
    if (sequence !== reception.sequence) {
      const expected = reception.sequence;
      this.abort(problem("N_WRONG_SN", `consecutive frame ${sequence} came where ${expected} was expected`));
      return;
    }
    append(reception, data.subarray(0, missingBytes));
    if (reception.receivedBytes === messageBytes) {
      this.reset();
      this.#host.deliver(reception.buffer);
      return;
    }
    reception.sequence = (sequence + 1) & 0xf;
    this.#deadlineMs = nowMs + this.#settings.consecutiveTimeoutMs;
    const { blockSize, listenOnly } = this.#settings;
    if (listenOnly || blockSize === 0) return;
    reception.blockFrames += 1;
    if (reception.blockFrames < blockSize) return;
    reception.blockFrames = 0;
    this.#flow = "continue";
    // The sender waits for us now; its time counts again when the flow control has left.
    this.#deadlineMs = undefined;
  }
}

function append(reception: Reception, data: Uint8Array): void {
  const end = reception.receivedBytes + data.length;
  if (end > reception.buffer.length) {
    const larger = new Uint8Array(Math.min(reception.messageBytes, reception.buffer.length * 2));
    larger.set(reception.buffer);
    reception.buffer = larger;
  }
  reception.buffer.set(data, reception.receivedBytes);
  reception.receivedBytes = end;
}
