import type { Duplex } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { AgentError } from "../../agent/driver/errors.ts";

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
}

/**
 * A conversation over a serial console: send text, wait for text. Escape sequences and carriage returns are
 * taken out first. One wait at a time.
 */
export class ConsoleDialog {
  readonly #stream: Duplex;
  readonly #signal: AbortSignal | undefined;
  readonly #decoder = new StringDecoder("utf8");
  #heard = "";
  #unfinished = "";
  #ended: AgentError | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: Duplex, { transcript, signal }: ConsoleOptions = {}) {
    this.#stream = stream;
    this.#signal = signal;
    stream.on("data", (chunk: Buffer) => {
      transcript?.(chunk);
      this.#hear(this.#decoder.write(chunk));
    });
    const end = (cause?: Error) => {
      this.#ended ??= new AgentError("E_CONNECTION", `the console closed${cause ? `: ${cause.message}` : ""}`, {
        cause,
      });
      this.#wake?.();
    };
    stream.once("end", end);
    stream.once("close", end);
    stream.on("error", end);
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
