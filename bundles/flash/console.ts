import type { Duplex } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";

/** How long a console that has gone is waited for: an adapter is pulled and plugged again. */
const reattachWithinMs = 60_000;
const reattachEveryMs = 500;
/** A console that goes more often is broken. */
const mostReattachments = 8;

/** What a board may say between two questions before the oldest of it is forgotten. */
const bufferLimit = 256 * 1024;
/** How much of what was said last goes into an error. */
const tailLength = 300;

/** Escape sequences (ECMA-48 CSI): colours, and `ESC[6n`, with which busybox asks for the cursor after its prompt. */
const controlSequence = /\x1b\[[0-?]*[ -/]*[@-~]/g; // eslint-disable-line no-control-regex
/** One that has not arrived completely; a longer one is none. */
const unfinishedSequence = /\x1b(\[[0-?]{0,32}[ -/]{0,8})?$/; // eslint-disable-line no-control-regex

export interface Heard {
  /** What came before the match. */
  readonly before: string;
  readonly match: RegExpExecArray;
}

export interface ConsoleOptions {
  /** Gets everything the board says, as it came. */
  readonly transcript?: ((chunk: Buffer) => void) | undefined;
  /** Ends every wait. */
  readonly signal?: AbortSignal | undefined;
  /** Opens the console anew when it has gone. Without: it is gone for good. */
  readonly reopen?: (() => Promise<Duplex>) | undefined;
}

/** The console has gone, and what the board said since is unknown. */
export class ConsoleLost extends AgentError {
  constructor(cause: Error | undefined) {
    super("E_CONNECTION", `the console closed${cause ? `: ${cause.message}` : ""}`, { cause });
  }
}

/**
 * A conversation over a serial console: send text, wait for text. Escape sequences and carriage returns are
 * taken out first. One wait at a time.
 */
export class ConsoleDialog {
  readonly #options: ConsoleOptions;
  readonly #signal: AbortSignal | undefined;
  #stream: Duplex;
  #reattachments = 0;
  #heard = "";
  #unfinished = "";
  #ended: ConsoleLost | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: Duplex, options: ConsoleOptions = {}) {
    this.#options = options;
    this.#signal = options.signal;
    this.#stream = stream;
    this.#listen(stream);
  }

  #listen(stream: Duplex): void {
    const decoder = new StringDecoder("utf8");
    stream.on("data", (chunk: Buffer) => {
      this.#options.transcript?.(chunk);
      this.#hear(decoder.write(chunk));
    });
    const end = (cause?: Error) => {
      if (stream !== this.#stream) return;
      this.#ended ??= new ConsoleLost(cause);
      this.#wake?.();
    };
    stream.once("end", end);
    stream.once("close", end);
    stream.on("error", end);
  }

  /**
   * Opens a console that has gone again, and forgets what was heard.
   * @throws the loss, if it cannot be had again in time; E_CANCELLED on the signal
   */
  async reattach(): Promise<void> {
    const lost = this.#ended;
    if (lost === undefined) return;
    const { reopen } = this.#options;
    if (reopen === undefined || this.#reattachments === mostReattachments) throw lost;
    this.#reattachments += 1;
    const deadline = performance.now() + reattachWithinMs;
    for (;;) {
      if (this.#signal?.aborted) throw new AgentError("E_CANCELLED", "cancelled");
      try {
        const stream = await reopen();
        this.#stream.destroy();
        [this.#stream, this.#ended, this.#heard, this.#unfinished] = [stream, undefined, "", ""];
        this.#listen(stream);
        return;
      } catch (error) {
        if (performance.now() > deadline) {
          const message = `${lost.message}, and did not come back: ${toAgentError(error).message}`;
          throw new AgentError("E_CONNECTION", message, { cause: error });
        }
      }
      await sleep(reattachEveryMs, undefined, { signal: this.#signal }).catch(() => {});
    }
  }

  /** Types. Does not wait until the board has taken it. */
  send(text: string): void {
    if (this.#ended === undefined) this.#stream.write(text);
  }

  /**
   * Waits until the board says something that matches, and takes everything up to its end.
   * @param what is waited for, as the error calls it
   * @throws AgentError E_TIMEOUT, E_CONNECTION when the console closes, E_CANCELLED on the signal
   */
  async expect(pattern: RegExp, { what, timeoutMs }: { what: string; timeoutMs: number }): Promise<Heard> {
    const heard = await this.hear(pattern, timeoutMs);
    if (heard !== undefined) return heard;
    throw new AgentError("E_TIMEOUT", `no ${what} within ${timeoutMs / 1000} s; ${this.#lastWords()}`);
  }

  /** Like {@link expect}, for what may not come: answers undefined after the time, and takes nothing then. */
  async hear(pattern: RegExp, timeoutMs: number): Promise<Heard | undefined> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const match = pattern.exec(this.#heard);
      if (match !== null) {
        const before = this.#heard.slice(0, match.index);
        this.#heard = this.#heard.slice(match.index + match[0].length);
        return { before, match };
      }
      if (this.#signal?.aborted) throw new AgentError("E_CANCELLED", "cancelled");
      if (this.#ended !== undefined) throw this.#ended;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) return undefined;
      await this.#more(leftMs);
    }
  }

  /** Ends the conversation and the stream. */
  close(): void {
    this.#stream.destroy();
  }

  #hear(text: string): void {
    const plain = (this.#unfinished + text).replace(controlSequence, "");
    this.#unfinished = unfinishedSequence.exec(plain)?.[0] ?? "";
    this.#heard += plain.slice(0, plain.length - this.#unfinished.length).replaceAll("\r", "");
    if (this.#heard.length > bufferLimit) this.#heard = this.#heard.slice(-bufferLimit);
    this.#wake?.();
  }

  /** Waits for more text, the end, the signal, or the time. */
  async #more(timeoutMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#signal?.addEventListener("abort", this.#wake, { once: true });
    });
    this.#signal?.removeEventListener("abort", this.#wake as () => void);
    this.#wake = undefined;
  }

  #lastWords(): string {
    const tail = this.#heard.trim().slice(-tailLength);
    return tail === "" ? "the board said nothing" : `the board said last: ${JSON.stringify(tail)}`;
  }
}
