import type { Socket } from "node:net";
import { AgentError } from "../../agent/driver/errors.ts";
import { dial } from "../../agent/stream/dial.ts";
import { longestAnswer, readAnswer, request, type Answer } from "./protocol.ts";

export interface Where {
  readonly host: string;
  readonly port: number;
}

export interface AskOptions {
  /** Whether the service gives a text when all went well. Default: yes. */
  readonly hasText?: boolean;
  readonly timeoutMs: number;
  /** What did not happen in time, for the error. */
  readonly what: string;
  readonly signal: AbortSignal;
}

/** What comes with an answer: status, length, text. */
const mostBytes = longestAnswer + 8;

/**
 * Asks an ADB server for one service.
 * @throws AgentError E_TIMEOUT, E_CANCELLED, E_CONNECTION if it hangs up, E_FAILED if it is no ADB server; ECONNREFUSED
 */
export async function ask(where: Where, service: string, options: AskOptions): Promise<Answer> {
  const { hasText = true, timeoutMs, what, signal } = options;
  const late = new AgentError("E_TIMEOUT", `${what} timed out after ${timeoutMs / 1000}s`);
  const name = `${where.host}:${where.port}`;
  const socket = await dial(where, name, signal, timeoutMs);
  const timer = setTimeout(() => socket.destroy(late), timeoutMs);
  const onAbort = () => socket.destroy(new AgentError("E_CANCELLED", `${what} was cancelled`));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    socket.write(request(service));
    return await answerOf(socket, hasText, name);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
    socket.destroy();
  }
}

async function answerOf(socket: Socket, hasText: boolean, name: string): Promise<Answer> {
  let received = Buffer.alloc(0);
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    received = Buffer.concat([received, chunk]);
    const answer = readAnswer(received, hasText);
    if (answer === "garbage" || received.length > mostBytes) {
      throw new AgentError("E_FAILED", `what listens on ${name} is no ADB server`);
    }
    if (answer !== undefined) return answer;
  }
  throw new AgentError("E_CONNECTION", `the ADB server at ${name} hung up`);
}
