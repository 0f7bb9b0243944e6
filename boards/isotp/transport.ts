import { performance } from "node:perf_hooks";
import type { CanBus } from "../can/bus.ts";
import type { Address } from "./address.ts";
import { IsoTpMachine, type LinkFrame, type MachineSettings } from "./machine.ts";
import type { Problem } from "./problem.ts";
import type { SendRequest } from "./sender.ts";

export interface ConnectionHost {
  deliver(message: Uint8Array): void;
  hasRoom(bytes: number): boolean;
  problem(problem: Problem): void;
}

/** So much is done in one go before others get their turn: a long message to a fast bus never waits by itself. */
const turnMs = 4;
/** Timers of Node are good to a millisecond; shorter pauses are waited out by turning. */
const shortestTimerMs = 1;
/** A timer that is so late woke a process that had slept: what came in that time is looked at first. */
const lateMs = 5;

/** Runs the state machine on a CAN bus, from `start` to `stop`. */
export class IsoTpConnection {
  readonly #bus: CanBus;
  readonly #machine: IsoTpMachine;
  /** Submitted before the start. */
  readonly #early: SendRequest[] = [];
  #unlisten: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #armedForMs: number | undefined;
  #sending = new AbortController();
  #turnEndMs = 0;

  constructor(bus: CanBus, settings: MachineSettings, address: Address, host: ConnectionHost) {
    this.#bus = bus;
    this.#machine = new IsoTpMachine(settings, address, {
      deliver: (message) => host.deliver(message),
      hasRoom: (bytes) => host.hasRoom(bytes),
      problem: (problem) => host.problem(problem),
      send: (frame, number) => void this.#send(frame, number),
      giveUp: () => {
        this.#sending.abort();
        this.#sending = new AbortController();
      },
    });
  }

  get started(): boolean {
    return this.#unlisten !== undefined;
  }

  get transmitting(): boolean {
    return this.#early.length > 0 || this.#machine.transmitting;
  }

  /** @param onLost the interface has gone; `stop` is still to be called */
  start(onLost: (error: Error) => void): void {
    this.#unlisten ??= this.#bus.listen((frame) => {
      if (frame.error || frame.remote) return;
      this.#machine.receive(frame, performance.now());
      this.#arm();
    }, onLost);
    for (const request of this.#early.splice(0)) this.submit(request);
  }

  /** A message submitted before the start leaves after it. */
  submit(request: SendRequest): void {
    if (!this.started) return void this.#early.push(request);
    this.#machine.submit(request, performance.now());
    this.#arm();
  }

  withdraw(request: SendRequest, why: Problem): void {
    const index = this.#early.indexOf(request);
    if (index !== -1) {
      this.#early.splice(index, 1);
      return request.done(why);
    }
    this.#machine.withdraw(request, why, performance.now());
    this.#arm();
  }

  setAddress(address: Address): void {
    this.#machine.setAddress(address, performance.now());
    this.#arm();
  }

  stopSending(why: Problem): void {
    for (const request of this.#early.splice(0)) request.done(why);
    this.#machine.stopSending(why);
    this.#arm();
  }

  stopReceiving(): void {
    this.#machine.stopReceiving();
    this.#arm();
  }

  /** Takes back what is being sent, forgets what is being received. Can be started again. */
  stop(why: Problem): void {
    this.#unlisten?.();
    this.#unlisten = undefined;
    this.stopReceiving();
    this.stopSending(why);
  }

  async #send(frame: LinkFrame, number: number): Promise<void> {
    const { signal } = this.#sending;
    let failure: string | undefined;
    try {
      const { data } = frame;
      const still = { remote: false, error: false, errorStateIndicator: false, channel: null };
      await this.#bus.send({ ...frame, ...still, dlc: data.length, timestampS: 0 }, { signal });
    } catch (error) {
      failure = error instanceof Error ? error.message : String(error);
    }
    const nowMs = performance.now();
    if (nowMs >= this.#turnEndMs) {
      await new Promise((resolve) => setImmediate(resolve));
      this.#turnEndMs = performance.now() + turnMs;
    }
    if (failure === undefined) this.#machine.sent(number, nowMs);
    else this.#machine.failed(number, failure, nowMs);
    this.#arm();
  }

  /** Sets the one timer to what the machine waits for next. */
  #arm(): void {
    const dueMs = this.#machine.deadlineMs;
    if (dueMs === this.#armedForMs) return;
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    this.#armedForMs = dueMs;
    if (dueMs === undefined) return;
    const waitMs = dueMs - performance.now();
    if (waitMs < shortestTimerMs) this.#immediate = setImmediate(() => this.#onTime(dueMs));
    else this.#timer = setTimeout(() => this.#onTime(dueMs), Math.floor(waitMs));
  }

  #onTime(dueMs: number): void {
    this.#armedForMs = undefined;
    const lateByMs = performance.now() - dueMs;
    if (lateByMs >= 0 && lateByMs < lateMs) this.#machine.onTime(performance.now());
    else if (lateByMs >= lateMs) {
      this.#armedForMs = dueMs;
      this.#immediate = setImmediate(() => {
        this.#armedForMs = undefined;
        this.#machine.onTime(performance.now());
        this.#arm();
      });
      return;
    }
    this.#arm();
  }
}
