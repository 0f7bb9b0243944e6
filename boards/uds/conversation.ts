import { performance } from "node:perf_hooks";
import { AgentError } from "../../agent/driver/errors.ts";
import { toHex } from "../../agent/driver/hex.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { WaitOptions } from "../../agent/stream/inbox.ts";
import { Turns } from "../power/turns.ts";
import { encodeRequest, extendedTimeoutMs, parseResponse, services, type UdsRequest } from "./protocol.ts";

/** Carries whole messages to one server and back. */
export interface DiagnosticChannel {
  /** Forgets what has come and was not fetched. */
  forgetReceived(): void;
  /** Done when the message has been taken. */
  send(message: Uint8Array, signal: AbortSignal): Promise<void>;
  /** The next message; undefined when the time is over. */
  receive(options: WaitOptions): Promise<Uint8Array | undefined>;
}

export type Answer =
  { readonly positive: true; readonly data: Uint8Array } | { readonly positive: false; readonly code: number };

/** P2*, what a server may take after it said "response pending": so much at least, whatever it tells of its session. */
const leastExtendedMs = 5_000;
/** A server that is at it for so long is not. */
const longestPendingMs = 600_000;
/** In this time after a request that was given up, its answer may still come. */
const staleMs = 30_000;

/** Requests to one server, one after the other. */
export class Conversation {
  readonly #open: (signal: AbortSignal) => Promise<DiagnosticChannel>;
  readonly #timeoutMs: number;
  readonly #log: Logger;
  readonly #turns = new Turns();
  #extendedMs = leastExtendedMs;
  #staleUntilMs = -Infinity;

  /** @param open the channel as it stands, or a new one; @param timeoutMs for the first answer to a request */
  constructor(open: (signal: AbortSignal) => Promise<DiagnosticChannel>, timeoutMs: number, log: Logger) {
    this.#open = open;
    this.#timeoutMs = timeoutMs;
    this.#log = log;
  }

  /** @throws AgentError E_TIMEOUT without an answer in time, E_FAILED for a wrong one; what the channel throws */
  ask(request: UdsRequest, signal: AbortSignal): Promise<Answer> {
    return this.#turns.take(signal, async () => {
      const channel = await this.#open(signal);
      channel.forgetReceived();
      try {
        await channel.send(encodeRequest(request), signal);
        return await this.#receive(channel, request, signal);
      } catch (error) {
        if (!(error instanceof UnexpectedResponse)) this.#staleUntilMs = performance.now() + staleMs;
        throw error;
      }
    });
  }

  /** What a session told of its times is forgotten. */
  reset(): void {
    this.#extendedMs = leastExtendedMs;
  }

  async #receive(channel: DiagnosticChannel, request: UdsRequest, signal: AbortSignal): Promise<Answer> {
    const { name } = request.service;
    const beganMs = performance.now();
    let waitMs = this.#timeoutMs;
    let isPending = false;
    for (let deadlineMs = beganMs + waitMs; ;) {
      const message = await channel.receive({ timeoutMs: Math.max(0, deadlineMs - performance.now()), signal });
      if (message === undefined) {
        const after = isPending ? ' after it said "response pending"' : "";
        throw new AgentError("E_TIMEOUT", `no response to ${name} within ${waitMs / 1000} s${after}`);
      }
      const response = parseResponse(request, message);
      switch (response.kind) {
        case "positive":
          if (request.service === services.sessionControl) this.#heedTimes(response.data);
          return { positive: true, data: response.data };
        case "negative":
          return { positive: false, code: response.code };
        case "pending":
          isPending = true;
          waitMs = Math.max(this.#extendedMs, this.#timeoutMs);
          deadlineMs = Math.min(performance.now() + waitMs, beganMs + longestPendingMs);
          break;
        case "stranger":
          if (performance.now() > this.#staleUntilMs) {
            throw new UnexpectedResponse(`unexpected response to ${name}: ${toHex(message.subarray(0, 32))}`);
          }
          this.#log.warn(`ignored a response to an earlier request: ${toHex(message.subarray(0, 32))}`);
      }
    }
  }

  #heedTimes(data: Uint8Array): void {
    this.#extendedMs = Math.max(leastExtendedMs, extendedTimeoutMs(data) ?? 0);
  }
}

class UnexpectedResponse extends AgentError {
  constructor(text: string) {
    super("E_FAILED", text);
  }
}
