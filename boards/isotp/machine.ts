import { targetOf, type Address } from "./address.ts";
import { problem, type Problem } from "./problem.ts";
import { buildFlow, parsePdu } from "./protocol.ts";
import { RateWindow, type RateLimit } from "./rate-limit.ts";
import { Receiver, type ReceiverHost, type ReceiverSettings } from "./receiver.ts";
import { Sender, type OutgoingFrame, type SendRequest, type SenderSettings } from "./sender.ts";

/** The part of a CAN frame that ISO-TP knows. */
export interface LinkFrame {
  readonly id: number;
  readonly extended: boolean;
  readonly fd: boolean;
  readonly bitrateSwitch: boolean;
  readonly data: Uint8Array;
}

export interface MachineSettings extends SenderSettings, ReceiverSettings {
  readonly fd: boolean;
  readonly bitrateSwitch: boolean;
  readonly rateLimit: RateLimit | undefined;
}

export interface MachineHost extends ReceiverHost {
  /**
   * Sends a frame, and answers with {@link IsoTpMachine.sent} or {@link IsoTpMachine.failed} and its number. There is never
   * more than one under way. May call {@link IsoTpMachine.receive} before it returns.
   */
  send(frame: LinkFrame, number: number): void;
  /** Nobody waits for the frame under way any more. */
  giveUp(): void;
}

/** N_As and N_Ar, ISO 15765-2:2016 table 21: how long a frame may take to leave. */
const frameTimeoutMs = 1_000;

interface InFlight {
  readonly number: number;
  /** Undefined for a flow control. */
  readonly request: SendRequest | undefined;
  readonly deadlineMs: number;
}

/**
 * The network layer of ISO 15765-2 for one pair of addresses, both ways at once (full duplex). Pure: it has no clock and
 * no bus; times are given to it, frames and messages go out by its host, and `deadlineMs` says when to call `onTime`.
 */
export class IsoTpMachine {
  readonly #settings: MachineSettings;
  readonly #host: MachineHost;
  readonly #sender: Sender;
  readonly #receiver: Receiver;
  readonly #rate: RateWindow | undefined;
  #address: Address;
  #inFlight: InFlight | undefined;
  #frames = 0;
  /** Waits for the rate limit. */
  #held: { readonly frame: OutgoingFrame; readonly untilMs: number } | undefined;

  constructor(settings: MachineSettings, address: Address, host: MachineHost) {
    this.#settings = settings;
    this.#address = address;
    this.#host = host;
    this.#sender = new Sender(settings);
    this.#receiver = new Receiver(settings, host);
    this.#rate = settings.rateLimit === undefined ? undefined : new RateWindow(settings.rateLimit);
  }

  /** A message is sent, or waits for that. */
  get transmitting(): boolean {
    return this.#sender.busy;
  }

  /** When {@link onTime} has something to do; undefined: never. */
  get deadlineMs(): number | undefined {
    const sending = this.#inFlight?.deadlineMs ?? this.#held?.untilMs ?? this.#sender.deadlineMs;
    const receiving = this.#receiver.deadlineMs;
    return sending === undefined || receiving === undefined ? (sending ?? receiving) : Math.min(sending, receiving);
  }

  /** Sends a message when those before it are through; physical ones may have any length, functional ones one frame's. */
  submit(request: SendRequest, nowMs: number): void {
    this.#sender.submit(request);
    this.#pump(nowMs);
  }

  /** Takes a message back, whether it has begun or not; its `done` gets the problem. */
  withdraw(request: SendRequest, why: Problem, nowMs: number): void {
    this.#sender.withdraw(request, why);
    this.#pump(nowMs);
  }

  /** A frame of the bus, of whomever. */
  receive(frame: LinkFrame, nowMs: number): void {
    const { rx } = this.#address;
    const target = targetOf(rx, frame);
    if (target === undefined) return;
    const pdu = parsePdu(frame.data, rx.prefix.length);
    if (pdu.kind === "invalid") this.#host.problem(problem("N_UNEXP_PDU", `ignored ${pdu.reason}`));
    // What is meant for many has one frame: nobody could answer with a flow control (9.6.3, 10.3).
    else if (target === "functional" && pdu.kind !== "single") return;
    else if (pdu.kind === "flow") {
      const wrong = this.#sender.receiveFlow(pdu, nowMs);
      if (wrong !== undefined) this.#host.problem(wrong);
    } else this.#receiver.receive(pdu, rx.prefix.length, nowMs);
    this.#pump(nowMs);
  }

  /** The frame with this number has left. */
  sent(number: number, nowMs: number): void {
    const left = this.#inFlight;
    if (left?.number !== number) return;
    this.#inFlight = undefined;
    if (left.request === undefined) this.#receiver.flowSent(nowMs);
    else this.#sender.sent(left.request, nowMs);
    this.#pump(nowMs);
  }

  /** The frame with this number could not be sent. */
  failed(number: number, reason: string, nowMs: number): void {
    if (this.#inFlight?.number !== number) return;
    this.#frameFailed(problem("N_ERROR", reason), nowMs);
  }

  onTime(nowMs: number): void {
    if (this.#inFlight !== undefined && nowMs >= this.#inFlight.deadlineMs) {
      this.#host.giveUp();
      this.#frameFailed(problem("N_TIMEOUT_A", `a frame could not be sent within ${frameTimeoutMs} ms`), nowMs);
    }
    this.#sender.onTime(nowMs);
    this.#receiver.onTime(nowMs);
    this.#pump(nowMs);
  }

  /** Takes back all messages that are not sent. */
  stopSending(why: Problem): void {
    this.#held = undefined;
    this.#sender.clear(why);
  }

  /** Forgets the message that is being received. */
  stopReceiving(): void {
    this.#receiver.reset();
  }

  /** From now on speaks as somebody else, or with somebody else: what has begun with the last one ends. */
  setAddress(address: Address, nowMs: number): void {
    this.#held = undefined;
    this.#sender.abort(problem("N_ERROR", "the address was changed"));
    this.#receiver.reset();
    this.#address = address;
    this.#pump(nowMs);
  }

  #frameFailed(why: Problem, nowMs: number): void {
    const lost = this.#inFlight;
    this.#inFlight = undefined;
    if (lost?.request === undefined) this.#receiver.abort(why);
    else this.#sender.withdraw(lost.request, why);
    this.#pump(nowMs);
  }

  /** Sends what may leave now. Flow control goes first: somebody waits for it. */
  #pump(nowMs: number): void {
    if (this.#inFlight !== undefined) return;
    const flow = this.#receiver.takeFlow();
    if (flow !== undefined) {
      const { layout, blockSize, stmin } = this.#settings;
      this.#send(buildFlow(layout, this.#address.tx.prefix, { status: flow, blockSize, stmin }), undefined, nowMs);
      return;
    }
    const frame = this.#nextFrame(nowMs);
    if (frame !== undefined) this.#send(frame.data, frame, nowMs);
  }

  #nextFrame(nowMs: number): OutgoingFrame | undefined {
    const held = this.#held?.frame;
    this.#held = undefined;
    // Its message may have been taken back meanwhile.
    const isStale = held === undefined || !this.#sender.isActive(held.request);
    const frame = isStale ? this.#sender.next(nowMs, this.#address.tx.prefix) : held;
    if (frame === undefined) return undefined;
    const allowedMs = this.#rate?.allowedAtMs(frame.data.length, nowMs) ?? nowMs;
    if (allowedMs <= nowMs) return frame;
    this.#held = { frame, untilMs: allowedMs };
    return undefined;
  }

  #send(data: Uint8Array, frame: OutgoingFrame | undefined, nowMs: number): void {
    const { fd, bitrateSwitch } = this.#settings;
    const { extended, id } = this.#address.tx;
    this.#rate?.sent(data.length, nowMs);
    const number = (this.#frames += 1);
    this.#inFlight = { number, request: frame?.request, deadlineMs: nowMs + frameTimeoutMs };
    this.#host.send({ id: id[frame?.target ?? "physical"], extended, fd, bitrateSwitch, data }, number);
  }
}
