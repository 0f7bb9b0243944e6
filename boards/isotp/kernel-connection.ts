import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import type { IsoTpSocket } from "../../agent/sys/isotp.ts";
import { systemError } from "../../agent/sys/native.ts";
import { problem, type Problem } from "./problem.ts";

const { EAGAIN, EMSGSIZE, ETIMEDOUT, EILSEQ, EBADMSG, ENETDOWN, ENODEV, ENXIO, EADDRNOTAVAIL } = constants.errno;
/** asm-generic/errno.h; Node does not name it. */
const ECOMM = 70;

/** What the kernel (net/can/isotp.c) means by the errors of a socket. */
const sendProblems = new Map([
  [ECOMM, problem("N_TIMEOUT_Bs", "no flow control within 1000 ms")],
  [EMSGSIZE, problem("N_BUFFER_OVFLW", "the receiver has no room for the message")],
]);
const receiveProblems = new Map([
  [ETIMEDOUT, problem("N_TIMEOUT_Cr", "no consecutive frame within 1000 ms")],
  [EILSEQ, problem("N_WRONG_SN", "a consecutive frame came out of its order")],
  [EBADMSG, problem("N_ERROR", "a frame was filled up in a way it should not be")],
]);

/** Kernels before 6.3 say that the next message can be sent while one still is. */
const busyRetryMs = 5;

/** Longer times than a timer takes mean: forever. */
const longestTimerMs = 0x7fff_ffff;

interface Waiter {
  readonly give: (message: Buffer | undefined) => void;
  readonly fail: (error: Error) => void;
}

/** One socket of the kernel's ISO-TP, from bind to close. Nothing that it does keeps the event loop waiting. */
export class KernelConnection {
  readonly #socket: IsoTpSocket;
  readonly #name: string;
  readonly #onProblem: (problem: Problem) => void;
  readonly #waiters: Waiter[] = [];
  readonly #closing = new AbortController();
  #unwatch: (() => void) | undefined;
  /** The end of the message before. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Of the message under way, if it was noticed by who reads. */
  #sendProblem: Problem | undefined;

  constructor(socket: IsoTpSocket, name: string, onProblem: (problem: Problem) => void) {
    this.#socket = socket;
    this.#name = name;
    this.#onProblem = onProblem;
  }

  /**
   * Hands a message to the kernel, which sends one at a time.
   * @param toEnd waits until the receiver has it
   * @throws AgentError E_FAILED if the receiver did not take it; the signal's reason, with the message perhaps on its way
   */
  async send(message: Uint8Array, toEnd: boolean, signal: AbortSignal): Promise<void> {
    const either = anySignal([signal, this.#closing.signal]);
    const before = this.#turn;
    const run = before.then(() => this.#sendNow(message, toEnd, either));
    this.#turn = run.catch(() => {});
    await run;
  }

  async #sendNow(message: Uint8Array, toEnd: boolean, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      const error = this.#socket.send(message);
      if (error === 0) break;
      if (error !== EAGAIN) throw this.#explain(error);
      if (!(await this.#writable(signal))) continue;
      await sleep(busyRetryMs, undefined, { signal });
    }
    this.#sendProblem = undefined;
    if (!toEnd) return;
    while (!(await this.#writable(signal)));
    const failed = this.#sendProblem as Problem | undefined;
    this.#sendProblem = undefined;
    if (failed !== undefined) throw new AgentError("E_FAILED", `Error while sending IsoTP frame: ${failed.text}`);
  }

  /** Waits for the end of the message under way. @returns false if it was something else */
  async #writable(signal: AbortSignal): Promise<boolean> {
    const isWritable = await new Promise<boolean>((resolve, reject) => {
      const onAbort = () => {
        unwatch();
        reject(signal.reason as Error);
      };
      const unwatch = this.#socket.watchWritable((isWritable) => {
        unwatch();
        signal.removeEventListener("abort", onAbort);
        resolve(isWritable);
      });
      signal.addEventListener("abort", onAbort, { once: true });
    });
    this.#notice(this.#socket.takeError());
    return isWritable;
  }

  /** The next message; undefined when the time is over. A message is never lost to a caller that has given up. */
  async receive(timeoutMs: number | undefined, signal: AbortSignal): Promise<Buffer | undefined> {
    signal.throwIfAborted();
    if (this.#waiters.length === 0) {
      const already = this.#next();
      if (already !== undefined || timeoutMs === 0) return already;
    }
    return new Promise((resolve, reject) => {
      const leave = () => {
        const index = this.#waiters.indexOf(waiter);
        if (index !== -1) this.#waiters.splice(index, 1);
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
        if (this.#waiters.length === 0) this.#stopWatching();
      };
      const waiter: Waiter = {
        give(message) {
          leave();
          resolve(message);
        },
        fail(error) {
          leave();
          reject(error);
        },
      };
      const onAbort = () => waiter.fail(signal.reason as Error);
      const isTimed = timeoutMs !== undefined && timeoutMs <= longestTimerMs;
      const timer = isTimed ? setTimeout(() => waiter.give(undefined), Math.max(0, timeoutMs)) : undefined;
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiters.push(waiter);
      this.#unwatch ??= this.#socket.watchReadable(() => this.#onReadable());
    });
  }

  #onReadable(): void {
    try {
      while (this.#waiters.length > 0) {
        const message = this.#next();
        if (message === undefined) return;
        this.#waiters[0]?.give(message);
      }
    } catch (error) {
      for (const waiter of [...this.#waiters]) waiter.fail(error as Error);
    }
  }

  #stopWatching(): void {
    this.#unwatch?.();
    this.#unwatch = undefined;
  }

  /** @returns undefined if there is none now */
  #next(): Buffer | undefined {
    for (;;) {
      const message = this.#socket.receive();
      if (typeof message !== "number") return message;
      if (message === EAGAIN) return undefined;
      this.#notice(message);
    }
  }

  /** The socket has one error for both ways, and forgets it when it is fetched. */
  #notice(error: number): void {
    if (error === 0) return;
    const sending = sendProblems.get(error);
    if (sending !== undefined) this.#sendProblem = sending;
    const known = sending ?? receiveProblems.get(error);
    if (known === undefined) throw this.#explain(error);
    this.#onProblem(known);
  }

  #explain(error: number): Error {
    if ([ENETDOWN, ENODEV, ENXIO, EADDRNOTAVAIL].includes(error)) {
      return new DeviceOffline(`CAN interface ${this.#name} is down or gone`, { cause: systemError(error, "isotp") });
    }
    return systemError(error, "isotp");
  }

  /** Who waits is told why. */
  async close(why: Error): Promise<void> {
    this.#closing.abort(why);
    for (const waiter of [...this.#waiters]) waiter.fail(why);
    this.#stopWatching();
    await this.#turn;
    await this.#socket.close();
  }
}
