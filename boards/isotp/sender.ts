import { problem, type Problem } from "./problem.ts";
import {
  buildConsecutive,
  buildFirst,
  buildSingle,
  consecutiveFrameLimit,
  singleFrameLimit,
  type FlowControl,
  type LinkLayout,
} from "./protocol.ts";
import type { TargetType } from "./address.ts";

export interface SenderSettings {
  readonly layout: LinkLayout;
  /** N_Bs: how long a flow control may take. */
  readonly flowTimeoutMs: number;
  /** Flow controls in a row that ask to wait; 0: none is heeded. */
  readonly waitLimit: number;
  /** In place of the receiver's pause between consecutive frames. */
  readonly overrideSeparationMs: number | undefined;
}

/** One message on its way. */
export interface SendRequest {
  readonly message: Uint8Array;
  readonly target: TargetType;
  /** Called once: without a problem when the last frame has left. */
  readonly done: (problem?: Problem) => void;
}

export interface OutgoingFrame {
  readonly data: Uint8Array;
  readonly target: TargetType;
  readonly request: SendRequest;
}

type State =
  /** For the flow control; without a deadline until the frame before it has left. */
  | { readonly kind: "waiting"; readonly deadlineMs: number | undefined }
  | { readonly kind: "streaming"; readonly notBeforeMs: number }
  /** The last frame is under way. */
  | { readonly kind: "closing" };

/** Cuts messages into frames, one after the other, as their receiver allows (9.6, 9.8.3). */
export class Sender {
  readonly #settings: SenderSettings;
  readonly #queue: SendRequest[] = [];
  #active: SendRequest | undefined;
  #state: State = { kind: "closing" };
  #offset = 0;
  #sequence = 0;
  /** Consecutive frames until the next flow control. */
  #blockLeft = 0;
  #separationMs = 0;
  /** When the last consecutive frame had left. */
  #lastFrameMs = -Infinity;
  #waits = 0;

  constructor(settings: SenderSettings) {
    this.#settings = settings;
  }

  get busy(): boolean {
    return this.#active !== undefined || this.#queue.length > 0;
  }

  /** It has begun, and was not taken back. */
  isActive(request: SendRequest): boolean {
    return request === this.#active;
  }

  submit(request: SendRequest): void {
    this.#queue.push(request);
  }

  /** When {@link next} has a frame, or {@link onTime} something to do. */
  get deadlineMs(): number | undefined {
    if (this.#active === undefined || this.#state.kind === "closing") return undefined;
    return this.#state.kind === "waiting" ? this.#state.deadlineMs : this.#state.notBeforeMs;
  }

  /** The next frame, if one may leave now; the caller sends it, and tells by {@link sent} when it has left. */
  next(nowMs: number, prefix: Uint8Array): OutgoingFrame | undefined {
    if (this.#active === undefined) return this.#begin(prefix);
    if (this.#state.kind !== "streaming" || nowMs < this.#state.notBeforeMs) return undefined;
    const request = this.#active;
    const { layout } = this.#settings;
    const length = consecutiveFrameLimit(layout.frameBytes, prefix.length);
    const payload = request.message.subarray(this.#offset, this.#offset + length);
    const data = buildConsecutive(layout, prefix, this.#sequence, payload);
    this.#offset += payload.length;
    this.#sequence = (this.#sequence + 1) & 0xf;
    this.#blockLeft -= 1;
    if (this.#offset === request.message.length) this.#state = { kind: "closing" };
    else if (this.#blockLeft === 0) this.#state = { kind: "waiting", deadlineMs: undefined };
    return { data, target: "physical", request };
  }

  #begin(prefix: Uint8Array): OutgoingFrame | undefined {
    let request = this.#queue.shift();
    // There is no frame for a message without a byte (9.6.2.1); can-isotp takes them as sent.
    while (request?.message.length === 0) {
      request.done();
      request = this.#queue.shift();
    }
    if (request === undefined) return undefined;
    const { layout } = this.#settings;
    const { message, target } = request;
    this.#active = request;
    this.#lastFrameMs = -Infinity;
    if (message.length <= singleFrameLimit(layout.frameBytes, prefix.length)) {
      this.#state = { kind: "closing" };
      return { data: buildSingle(layout, prefix, message), target, request };
    }
    const { data, taken } = buildFirst(layout, prefix, message);
    this.#offset = taken;
    this.#sequence = 1;
    this.#waits = 0;
    this.#state = { kind: "waiting", deadlineMs: undefined };
    return { data, target: "physical", request };
  }

  /** A frame of this request has left. */
  sent(request: SendRequest, nowMs: number): void {
    if (request !== this.#active) return;
    if (this.#state.kind === "closing") return this.#end();
    // The answer to a frame may be here before we hear that the frame has left.
    this.#lastFrameMs = nowMs;
    this.#state =
      this.#state.kind === "streaming"
        ? { kind: "streaming", notBeforeMs: nowMs + this.#separationMs }
        : { kind: "waiting", deadlineMs: nowMs + this.#settings.flowTimeoutMs };
  }

  /** @returns what is wrong with it, if it is heeded in no way */
  receiveFlow(flow: FlowControl, nowMs: number): Problem | undefined {
    // 9.8.3: ignored unless it is waited for.
    if (this.#state.kind !== "waiting" || this.#active === undefined) return undefined;
    switch (flow.status) {
      case "continue":
        this.#waits = 0;
        this.#blockLeft = flow.blockSize === 0 ? Infinity : flow.blockSize;
        this.#separationMs = this.#settings.overrideSeparationMs ?? flow.separationMs;
        this.#state = { kind: "streaming", notBeforeMs: this.#lastFrameMs + this.#separationMs };
        return undefined;
      case "wait":
        return this.#wait(nowMs);
      case "overflow":
        this.#end(problem("N_BUFFER_OVFLW", "the receiver has no room for the message"));
        return undefined;
      case "reserved":
        this.#end(problem("N_INVALID_FS", "the receiver sent a flow control with a reserved status"));
        return undefined;
    }
  }

  #wait(nowMs: number): Problem | undefined {
    const { waitLimit, flowTimeoutMs } = this.#settings;
    // As can-isotp does: the time goes on, and the receiver may still say in it that we may continue.
    if (waitLimit === 0) return problem("N_WFT_OVRN", "the receiver asked to wait, which wftmax 0 does not allow");
    this.#waits += 1;
    if (this.#waits > waitLimit) {
      this.#end(problem("N_WFT_OVRN", `the receiver asked to wait more than ${waitLimit} times`));
    } else this.#state = { kind: "waiting", deadlineMs: nowMs + flowTimeoutMs };
    return undefined;
  }

  onTime(nowMs: number): void {
    if (this.#active === undefined || this.#state.kind !== "waiting") return;
    if (this.#state.deadlineMs === undefined || nowMs < this.#state.deadlineMs) return;
    this.#end(problem("N_TIMEOUT_Bs", `no flow control within ${this.#settings.flowTimeoutMs} ms`));
  }

  /** Takes a message back, whether it has begun or not. */
  withdraw(request: SendRequest, why: Problem): void {
    if (request === this.#active) return this.#end(why);
    const index = this.#queue.indexOf(request);
    if (index === -1) return;
    this.#queue.splice(index, 1);
    request.done(why);
  }

  /** Takes back the message under way. */
  abort(why: Problem): void {
    if (this.#active !== undefined) this.#end(why);
  }

  /** Takes back all messages. */
  clear(why: Problem): void {
    const queued = this.#queue.splice(0);
    this.abort(why);
    for (const request of queued) request.done(why);
  }

  #end(why?: Problem): void {
    const request = this.#active;
    this.#active = undefined;
    this.#state = { kind: "closing" };
    request?.done(why);
  }
}
