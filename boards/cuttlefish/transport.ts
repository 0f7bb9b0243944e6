import { setTimeout as sleep } from "node:timers/promises";
import { Agent, request } from "undici";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { complaintOf, operationOf, waitPath } from "./protocol.ts";

const requestTimeoutMs = 30_000;
/** The orchestrator hangs up on whoever waits for long, and wants to be asked again. */
const again = new Set([503, 504]);
const againAfterMs = 2_000;
const mostBytes = 4 * 2 ** 20;

type Method = "GET" | "POST" | "DELETE";

export class NotThere extends AgentError {
  constructor(message: string) {
    super("E_FAILED", message);
  }
}

/** The REST interface of one host. Without proxies: it stands in the lab. */
export class Orchestrator {
  readonly base: string;
  readonly #dispatcher: Agent;
  readonly #retryMs: number;

  constructor(base: string, retryMs = againAfterMs) {
    this.base = base;
    this.#retryMs = retryMs;
    const limits = { headersTimeout: requestTimeoutMs, bodyTimeout: requestTimeoutMs };
    this.#dispatcher = new Agent({ connect: { timeout: requestTimeoutMs }, ...limits });
  }

  close(): Promise<void> {
    return this.#dispatcher.destroy();
  }

  /** @returns what it answers, parsed; text that is no JSON as text. @throws AgentError E_FAILED, E_CONNECTION, E_TIMEOUT */
  async ask(method: Method, path: string, signal: AbortSignal, body?: unknown): Promise<unknown> {
    const { status, text } = await this.#send(method, path, signal, body);
    return parsed(this.#checked(method, path, status, text));
  }

  /**
   * The same, and waits for the operation that it starts.
   * @throws AgentError E_TIMEOUT if that takes longer than `limitMs`
   */
  async perform(method: Method, path: string, signal: AbortSignal, limitMs: number, body?: unknown): Promise<unknown> {
    const giveUpAt = performance.now() + limitMs;
    const answer = await this.ask(method, path, signal, body);
    const operation = operationOf(answer);
    if (operation === undefined) return answer;
    for (;;) {
      const wait = waitPath(operation);
      const { status, text } = await this.#send("POST", wait, signal).catch((error: unknown) => {
        // That nothing has come for a while is no failure of the operation.
        if (error instanceof AgentError && error.code === "E_TIMEOUT") return { status: 504, text: "" };
        throw error;
      });
      if (!again.has(status)) return parsed(this.#checked("POST", wait, status, text));
      if (performance.now() > giveUpAt) {
        throw new AgentError("E_TIMEOUT", `${method} ${path} is not done after ${limitMs / 1000}s`);
      }
      await sleep(this.#retryMs, undefined, { signal });
    }
  }

  #checked(method: Method, path: string, status: number, text: string): string {
    if (status >= 200 && status < 300) return text;
    const message = `${method} ${path} failed with HTTP ${status}: ${complaintOf(text)}`;
    throw status === 404 ? new NotThere(message) : new AgentError("E_FAILED", message);
  }

  async #send(method: Method, path: string, signal: AbortSignal, body?: unknown) {
    try {
      const answer = await request(new URL(path, this.base), {
        method,
        signal,
        dispatcher: this.#dispatcher,
        ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
      });
      let [text, size] = ["", 0];
      for await (const chunk of answer.body as AsyncIterable<Buffer>) {
        if ((size += chunk.length) > mostBytes) throw new AgentError("E_LIMIT", `${this.base} sends without end`);
        text += chunk.toString();
      }
      return { status: answer.statusCode, text };
    } catch (error) {
      throw this.#explain(error, signal);
    }
  }

  #explain(error: unknown, signal: AbortSignal): unknown {
    if (error instanceof AgentError) return error;
    if (signal.aborted) return signal.reason;
    const { code = "" } = error as { code?: string };
    if (code === "ETIMEDOUT" || /^UND_ERR_.*TIMEOUT$/.test(code)) {
      return new AgentError("E_TIMEOUT", `${this.base} does not answer in time`, { cause: error });
    }
    if (isSystemError(error) || code !== "") {
      return new AgentError("E_CONNECTION", `${this.base} cannot be reached: ${code}`, { cause: error });
    }
    return error;
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
