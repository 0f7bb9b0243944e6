import { randomInt } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { errorName, request, type Binding, type Pdu, type Value } from "./protocol.ts";
import type { Security } from "./security.ts";

/** A request is sent again after this long at first, then after longer each time. */
const firstRetryMs = 1_000;
/** A short deadline has room for some tries as well. */
const leastTries = 5;
const backoff = 1.5;

/** An agent that always needs something else before it answers is not asked for ever. */
const mostNews = 8;

const mostId = 0x7fff_ffff;

/** Texts as the Python driver has them behind `SNMP set failed: `. */
const timeoutText = "SNMP operation timed out";

export interface Operation {
  readonly host: string;
  readonly port: number;
  readonly security: Security;
  /** For all its requests together. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** One conversation with an agent: a socket of its own, and a deadline for all that is asked in it. */
export interface Conversation {
  /** Milliseconds until the deadline. */
  left(): number;
  /** @throws AgentError E_TIMEOUT, E_CONNECTION, E_FAILED (the agent refuses) */
  get(oids: readonly string[]): Promise<readonly Value[]>;
  /** @throws as `get` */
  set(oid: string, value: number): Promise<void>;
}

/** @throws AgentError E_TIMEOUT, E_CONNECTION (no such host), E_FAILED; the signal's reason; what `talk` throws */
export async function converse<T>(operation: Operation, talk: (agent: Conversation) => Promise<T>): Promise<T> {
  const { host, port, timeoutMs, signal } = operation;
  const deadline = performance.now() + timeoutMs;
  const ended = anySignal([signal, AbortSignal.timeout(timeoutMs)]);
  const left = () => deadline - performance.now();
  const { address, family } = await whileTimeLasts(resolve(host), operation, ended);
  // Connected: only the agent's datagrams come in, and a closed port is told.
  const socket = createSocket(family === 6 ? "udp6" : "udp4");
  try {
    await whileTimeLasts(connect(socket, port, address), operation, ended);
    const ask = async (type: "get" | "set", bindings: readonly Binding[]) => {
      const pdu = request(type, randomInt(1, mostId), bindings);
      const response = await exchange(socket, pdu, operation, left());
      if (response.errorStatus !== 0) {
        const oid = response.bindings[response.errorIndex - 1]?.oid ?? bindings[0]?.oid ?? "";
        throw new AgentError("E_FAILED", `SNMP error: ${errorName(response.errorStatus)} at ${oid}`);
      }
      return response.bindings;
    };
    return await talk({
      left,
      get: async (oids) => {
        const found = await ask(
          "get",
          oids.map((oid) => ({ oid, value: null })),
        );
        return oids.map((oid) => found.find((binding) => binding.oid === oid)?.value ?? null);
      },
      set: async (oid, value) => void (await ask("set", [{ oid, value }])),
    });
  } finally {
    socket.close();
  }
}

async function resolve(host: string): Promise<{ address: string; family: number }> {
  try {
    return await lookup(host, { verbatim: true });
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw new AgentError("E_CONNECTION", `Failed to resolve hostname ${host}: ${code}`, { cause: error });
  }
}

function connect(socket: Socket, port: number, address: string): Promise<void> {
  return new Promise((done, fail) => {
    socket.once("error", fail);
    socket.connect(port, address, () => {
      socket.off("error", fail);
      done();
    });
  });
}

/** For waits that cannot be cancelled themselves. */
async function whileTimeLasts<T>(step: Promise<T>, { signal }: Operation, ended: AbortSignal): Promise<T> {
  let stop = () => {};
  const end = new Promise<never>((_, reject) => {
    stop = () => reject(signal.aborted ? (signal.reason as Error) : new AgentError("E_TIMEOUT", timeoutText));
  });
  if (ended.aborted) stop();
  ended.addEventListener("abort", stop, { once: true });
  try {
    return await Promise.race([step, end]);
  } finally {
    ended.removeEventListener("abort", stop);
  }
}

/** Sends a request until it is answered or the time is up. */
function exchange(socket: Socket, pdu: Pdu, { security, signal, timeoutMs }: Operation, leftMs: number): Promise<Pdu> {
  return new Promise((resolve, reject) => {
    const messageIds = new Set<number>();
    let waitMs = Math.min(firstRetryMs, timeoutMs / leastTries);
    let news = 0;
    let noise = 0;
    let trouble: Error | undefined;
    let retry: NodeJS.Timeout | undefined;

    const finish = (settle: () => void) => {
      clearTimeout(retry);
      clearTimeout(end);
      signal.removeEventListener("abort", cancel);
      socket
        .removeAllListeners("message")
        .removeAllListeners("error")
        .on("error", () => {});
      settle();
    };
    const cancel = () => finish(() => reject(signal.reason as Error));
    const giveUp = () => finish(() => reject(noAnswer(trouble, noise)));
    const send = () => {
      const messageId = randomInt(1, mostId);
      messageIds.add(messageId);
      // What goes wrong comes as an event as well, where it is kept: a network that is away may come back.
      socket.send(security.wrap(pdu, messageId), (error) => (trouble = error ?? trouble));
      clearTimeout(retry);
      retry = setTimeout(send, waitMs);
      waitMs *= backoff;
    };

    const end = setTimeout(giveUp, Math.max(0, leftMs));
    if (signal.aborted) return cancel();
    signal.addEventListener("abort", cancel, { once: true });
    socket.on("error", (error) => (trouble = error));
    socket.on("message", (bytes) => {
      const answer = security.read(bytes, pdu, messageIds);
      switch (answer.is) {
        case "response":
          return finish(() => resolve(answer.pdu));
        case "refusal":
          return finish(() => reject(new AgentError("E_FAILED", `SNMP error: ${answer.indication}`)));
        case "news":
          if ((news += 1) <= mostNews) send();
          return;
        case "noise":
          noise += 1;
      }
    });
    send();
  });
}

function noAnswer(trouble: Error | undefined, noise: number): AgentError {
  if (trouble !== undefined && isSystemError(trouble)) {
    const { message } = toAgentError(trouble);
    return new AgentError("E_CONNECTION", `no SNMP agent can be reached: ${message}`, { cause: trouble });
  }
  const heard = noise === 0 ? "" : `; ${noise} datagrams came that were no answer`;
  return new AgentError("E_TIMEOUT", timeoutText + heard);
}
