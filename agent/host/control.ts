import { chmod } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { removeDeadSocket } from "../session/unix-socket.ts";
import { claimControlDirectory } from "./control-directory.ts";
import {
  answerLimitMs,
  controlRequests,
  longestAnswerBytes,
  longestRequestBytes,
  parseLine,
  readLine,
  requestLimitMs,
  requestLine,
  type ControlRequests,
} from "./control-protocol.ts";
import type { ReloadReport } from "./reload-report.ts";

/** What the agent does for its own tools. Answers are sent as JSON. */
export interface ControlHandlers {
  readonly reload: (request: ControlRequests["reload"]) => Promise<ReloadReport[]>;
  readonly status: (request: ControlRequests["status"]) => Promise<unknown>;
}

export interface ControlServer {
  readonly path: string;
  /** Cuts what is under way and removes the socket. Idempotent. */
  close(): Promise<void>;
}

/** Tools come one by one; more at once is a mistake. */
const mostConnections = 8;

/** `sun_path` of unix(7) holds 108 bytes with the final zero. */
const longestPathBytes = 107;

/**
 * Serves the tools of this agent's own user: the socket lies in a directory that nobody else can enter.
 * @throws AgentError E_IO where that cannot be had
 */
export async function serveControl(
  handlers: ControlHandlers,
  env: NodeJS.ProcessEnv = process.env,
): Promise<ControlServer> {
  const directory = await claimControlDirectory(env);
  const path = join(directory, `${process.pid}.sock`);
  if (Buffer.byteLength(path) > longestPathBytes) {
    throw new AgentError("E_IO", `the path is longer than the ${longestPathBytes} bytes a socket may have: ${path}`);
  }
  await removeDeadSocket(path);
  const connections = new Set<Socket>();
  const server = createServer((socket) => {
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
    socket.on("error", () => {});
    void serveTool(socket, handlers);
  });
  server.maxConnections = mostConnections;
  // `listen` reports what is wrong as an event, and `once` throws it.
  await once(server.listen(path), "listening").catch((error: unknown) => {
    throw toAgentError(error);
  });
  await chmod(path, 0o600);
  return {
    path,
    async close() {
      for (const socket of connections) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

async function serveTool(socket: Socket, handlers: ControlHandlers): Promise<void> {
  const over = new AbortController();
  try {
    const late = sleep(answerLimitMs, undefined, { signal: over.signal, ref: false }).then(() => {
      throw new AgentError("E_TIMEOUT", `no answer within ${answerLimitMs / 1_000} s, it may come true later`);
    });
    late.catch(() => {});
    const line = await Promise.race([answer(socket, handlers), late]);
    socket.end(`${line}\n`);
  } catch (thrown) {
    const { code, message } = toAgentError(thrown);
    socket.end(`${JSON.stringify({ error: { code, message } })}\n`);
  } finally {
    over.abort();
    // A tool that does not read must not hold one of the few connections.
    socket.setTimeout(requestLimitMs, () => socket.destroy());
  }
}

async function answer(socket: Socket, handlers: ControlHandlers): Promise<string> {
  const text = await readLine(socket, { mostBytes: longestRequestBytes, limitMs: requestLimitMs });
  const { request, params } = parseLine(text, requestLine);
  const given = controlRequests[request].safeParse(params ?? {});
  if (!given.success) throw toAgentError(given.error);
  const handle = handlers[request] as (params: unknown) => Promise<unknown>;
  const line = JSON.stringify({ answer: (await handle(given.data)) ?? null });
  if (Buffer.byteLength(line) <= longestAnswerBytes) return line;
  throw new AgentError("E_LIMIT", `the answer is longer than ${longestAnswerBytes} bytes`);
}
