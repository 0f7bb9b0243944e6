import type { Readable, Writable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { AgentError } from "../../agent/driver/errors.ts";
import { parseQmp, qmpCommand, type QmpMessage } from "./protocol.ts";

/** No answer that is asked for here is nearly that long. */
const longestLine = 1024 * 1024;
/** QEMU answers at once, unless it is stuck in its disk or the host swaps. */
const answerTimeoutMs = 10_000;

export type QmpEvent = Extract<QmpMessage, { kind: "event" }>;

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** A connection to QEMU's machine protocol. Its calls fail when it ends; whoever made the streams closes them. */
export class Qmp {
  readonly #writable: Writable;
  readonly #onEvent: (event: QmpEvent) => void;
  readonly #waiting = new Map<number, Waiting>();
  readonly #decoder = new StringDecoder("utf8");
  #rest = "";
  #lastId = 0;
  #ended: Error | undefined;

  constructor(readable: Readable, writable: Writable, onEvent: (event: QmpEvent) => void = () => {}) {
    this.#writable = writable;
    this.#onEvent = onEvent;
    readable.on("data", (chunk: Buffer) => this.#take(this.#decoder.write(chunk)));
    for (const stream of [readable, writable]) {
      stream.on("error", () => {});
      for (const over of ["end", "close"]) stream.once(over, () => this.#end("QEMU has closed its control connection"));
    }
  }

  /** Must come first: QEMU takes nothing else before. */
  async negotiate(signal?: AbortSignal): Promise<void> {
    await this.execute("qmp_capabilities", undefined, signal);
  }

  /** @throws AgentError E_FAILED if QEMU refuses, with its own words; E_TIMEOUT; E_CONNECTION when it has gone; the signal's reason */
  async execute(name: string, args?: Readonly<Record<string, unknown>>, signal?: AbortSignal): Promise<unknown> {
    signal?.throwIfAborted();
    if (this.#ended !== undefined) throw this.#ended;
    const id = (this.#lastId += 1);
    const late = () => answer.reject(new AgentError("E_TIMEOUT", `QEMU does not answer ${name}`));
    const cancel = () => answer.reject(signal?.reason as Error);
    const answer = {} as Waiting;
    const answered = new Promise<unknown>((resolve, reject) => Object.assign(answer, { resolve, reject }));
    this.#waiting.set(id, answer);
    const timer = setTimeout(late, answerTimeoutMs);
    signal?.addEventListener("abort", cancel);
    try {
      this.#writable.write(qmpCommand(id, name, args));
      return await answered;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", cancel);
      this.#waiting.delete(id);
    }
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    if (this.#rest.length > longestLine) {
      this.#rest = "";
      this.#end("QEMU sends a line without end");
    }
    for (const line of lines) this.#message(parseQmp(line));
  }

  #message(message: QmpMessage | undefined): void {
    if (message?.kind === "event") this.#onEvent(message);
    else if (message?.kind === "return") this.#waiting.get(message.id)?.resolve(message.value);
    else if (message?.kind === "error") {
      this.#waiting.get(message.id)?.reject(new AgentError("E_FAILED", `QEMU refuses: ${message.text}`));
    }
  }

  #end(why: string): void {
    this.#ended ??= new AgentError("E_CONNECTION", why);
    for (const { reject } of this.#waiting.values()) reject(this.#ended);
  }
}
