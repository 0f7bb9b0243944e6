import { once } from "node:events";
import type { ServerResponse } from "node:http";

/** Silence that a reader and what lies between may take for a lost connection. */
const beatMs = 15_000;
/** A reader that takes nothing for so long has gone. */
const stallMs = 30_000;

/** Server-sent events (HTML Living Standard, section 9.2) to one reader. */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #closing = new AbortController();
  readonly #beat: NodeJS.Timeout;

  constructor(response: ServerResponse) {
    this.#response = response;
    response.writeHead(200, { "Content-Type": "text/event-stream", "X-Accel-Buffering": "no" });
    response.flushHeaders();
    this.#beat = setInterval(() => void this.#write(": \n\n"), beatMs).unref();
    response.once("close", () => {
      clearInterval(this.#beat);
      this.#closing.abort();
    });
  }

  /** Aborted when the reader has gone. */
  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  /** What the reader has not taken yet. */
  get waitingBytes(): number {
    return this.#response.writableLength;
  }

  /** Resolves when the reader has room for more. */
  async send(event: string, data: unknown): Promise<void> {
    await this.#write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  end(): void {
    this.#response.destroy();
  }

  async #write(text: string): Promise<void> {
    if (this.signal.aborted || this.#response.write(text)) return;
    const late = setTimeout(() => this.end(), stallMs).unref();
    await once(this.#response, "drain", { signal: this.signal }).catch(() => {});
    clearTimeout(late);
  }
}
