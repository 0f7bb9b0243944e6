import { constants, type IncomingHttpHeaders, type OutgoingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { Cancellable } from "../driver/driver.ts";
import { AgentError, grpcAnswerOf, toAgentError } from "../driver/errors.ts";
import { prefixed } from "../stream/rpc-messages.ts";

const responseHeaders = { ":status": 200, "content-type": "application/grpc", "grpc-accept-encoding": "identity" };

/** One RPC as its server sees it: the HTTP/2 stream, and the ways to answer. */
export class RpcCall implements Cancellable {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly stream: ServerHttp2Stream;
  #abort: AbortController | undefined;
  #cancelled: AgentError | undefined;
  #ended = false;

  constructor(stream: ServerHttp2Stream, headers: IncomingHttpHeaders) {
    this.stream = stream;
    this.headers = headers;
    this.path = headers[":path"] ?? "";
    // The reason of a broken stream shows up as "close"; every call watches that.
    stream.on("error", () => {});
    const deadline = this.#startDeadline();
    const gone = () => {
      clearTimeout(deadline);
      if (!this.#ended) this.#cancel(new AgentError("E_CANCELLED", "the caller has gone"));
    };
    // "close" alone would wait until somebody has read what came before a reset.
    stream.once("aborted", gone);
    stream.once("close", gone);
  }

  /** Aborted when the caller cancels, its deadline passes, or its connection is lost; never once it is answered. */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#cancelled !== undefined) this.#abort.abort(this.#cancelled);
    }
    return this.#abort.signal;
  }

  /** False when nobody listens to an answer any more. */
  get open(): boolean {
    return !this.#ended && !this.stream.destroyed && !this.stream.closed;
  }

  /** Sends the initial metadata; at once, because callers wait for it. */
  sendMetadata(metadata: Record<string, string> = {}): void {
    if (this.open) this.stream.respond({ ...responseHeaders, ...metadata }, { waitForTrailers: true });
  }

  /** @returns false if the transport has more than enough to send for now; see {@link drained}. */
  sendMessage(message: Uint8Array): boolean {
    return !this.open || this.stream.write(prefixed(message));
  }

  /** Resolves when the transport takes more, or the stream is gone. */
  drained(): Promise<void> {
    const { stream } = this;
    return new Promise((resolve) => {
      const done = () => {
        stream.off("drain", done);
        stream.off("close", done);
        resolve();
      };
      stream.once("drain", done);
      stream.once("close", done);
    });
  }

  /** Ends the RPC with its one message and OK. */
  answer(message: Uint8Array): void {
    if (!this.open) return;
    this.stream.respond(responseHeaders, { waitForTrailers: true });
    this.#end({ "grpc-status": 0 }, prefixed(message));
  }

  /** Ends the RPC, with OK or with what the error says. Does nothing when it has ended. */
  finish(thrown?: unknown): void {
    if (this.#ended) return;
    if (!this.open) {
      this.stream.destroy();
      return;
    }
    const trailers = statusOf(thrown);
    if (this.stream.headersSent) {
      this.#end(trailers);
    } else {
      this.#ended = true;
      this.stream.respond({ ...responseHeaders, ...trailers }, { endStream: true });
      this.#closeWhenSent();
    }
  }

  #end(trailers: OutgoingHttpHeaders, last?: Buffer): void {
    this.#ended = true;
    this.stream.once("wantTrailers", () => {
      this.stream.sendTrailers(trailers);
      this.#closeWhenSent();
    });
    this.stream.end(last);
  }

  /** Whoever answers before the caller has sent everything must say that the rest is not wanted. */
  #closeWhenSent(): void {
    const { stream } = this;
    if (stream.readableEnded) return;
    stream.resume();
    setImmediate(() => {
      if (!stream.readableEnded && !stream.destroyed) stream.close(constants.NGHTTP2_NO_ERROR);
    });
  }

  #startDeadline(): NodeJS.Timeout | undefined {
    const [, amount, unit] = /^(\d{1,8})([HMSmun])$/.exec(String(this.headers["grpc-timeout"])) ?? [];
    if (amount === undefined || unit === undefined) return undefined;
    const timeoutMs = Math.min(Number(amount) * (unitsInMs[unit] ?? 1), longestTimerMs);
    return setTimeout(() => {
      const error = new AgentError("E_TIMEOUT", "Deadline Exceeded");
      this.#cancel(error);
      this.finish(error);
    }, timeoutMs);
  }

  #cancel(reason: AgentError): void {
    this.#cancelled ??= reason;
    this.#abort?.abort(reason);
  }
}

const unitsInMs: Record<string, number> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 0.001, n: 0.000_001 };
const longestTimerMs = 2 ** 31 - 1;

/** Clients take 8 KiB of metadata at most; a longer text would cost them the status too. */
const longestStatusText = 4_000;

function statusOf(thrown: unknown): OutgoingHttpHeaders {
  if (thrown === undefined) return { "grpc-status": 0 };
  const { status, details } = grpcAnswerOf(toAgentError(thrown));
  return { "grpc-status": status, "grpc-message": percentEncoded(details) };
}

/**
 * The gRPC form of a status text: printable ASCII but `%`, everything else as %XX of its UTF-8 bytes. A space at an end
 * goes so as well: HTTP/2 has no header values with one (RFC 9113 §8.2.1).
 */
function percentEncoded(text: string): string {
  let encoded = "";
  const { length } = text;
  let at = 0;
  for (const character of text) {
    if (encoded.length >= longestStatusText) break;
    const isEdge = character === " " && (at === 0 || at === length - 1);
    at += character.length;
    if (character >= " " && character <= "~" && character !== "%" && !isEdge) encoded += character;
    else encoded += Array.from(Buffer.from(character), (byte) => `%${hex(byte)}`).join("");
  }
  return encoded;
}

function hex(byte: number): string {
  return byte.toString(16).toUpperCase().padStart(2, "0");
}
