import { createSocket } from "node:dgram";
import { BlockList, isIPv6, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { dial } from "../../agent/stream/dial.ts";
import { Inbox, type WaitOptions } from "../../agent/stream/inbox.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import {
  activationSucceeded,
  aliveCheckResponse,
  buildDiagnostic,
  decodeDatagram,
  describeActivation,
  describeDiagnosticNack,
  describeHeaderNack,
  DoipDecoder,
  encodeMessage,
  parseAddressed,
  parseRoutingActivation,
  payloadTypes,
  routingActivationRequest,
  type DoipMessage,
  type RoutingActivation,
} from "./protocol.ts";

export interface DoipSettings {
  readonly host: string;
  readonly tcpPort: number;
  readonly udpPort: number;
  readonly version: number;
  readonly ecuAddress: number;
  readonly clientAddress: number;
  /** Null: the connection is used without routing activation. */
  readonly activationType: number | null;
}

/** A_DoIP_Ctrl, A_DoIP_Diagnostic_Message (table 45): what an entity takes for an answer at most. */
export const answerTimeoutMs = 2_000;
const connectTimeoutMs = 5_000;
/** What waits to be fetched by `receive_diagnostic`. */
const inboxLimits = { messages: 1024, bytes: 8 << 20 };
/** What the socket may hold that the ECU does not take. */
const mostUnsentBytes = 4 << 20;

interface Expectation {
  /** Whether the message is what is expected; then it is settled. */
  offer(message: DoipMessage): boolean;
  fail(error: AgentError): void;
}

/** One TCP connection to an entity: takes what comes at any time, so that alive checks are answered while nobody calls. */
export class DoipConnection {
  readonly #socket: Socket;
  readonly #settings: DoipSettings;
  readonly #log: Logger;
  readonly #inbox = new Inbox(inboxLimits);
  /** In the order of the requests; one whose caller gave up stays until its time is over, as its answer may still come. */
  readonly #expected = new Set<Expectation>();
  readonly #ended = new AbortController();
  #lost: AgentError | undefined;

  /** Connects, and activates the routing if it is wanted. @throws AgentError E_CONNECTION; the signal's reason */
  static async open(settings: DoipSettings, log: Logger, signal: AbortSignal): Promise<DoipConnection> {
    const where = `${settings.host}:${settings.tcpPort}`;
    const target = { host: settings.host, port: settings.tcpPort, noDelay: true };
    const socket = await dial(target, where, signal, connectTimeoutMs).catch((error: unknown) => {
      signal.throwIfAborted();
      const text = `ECU at ${where} cannot be reached: ${toAgentError(error).message}`;
      throw new AgentError("E_CONNECTION", text, { cause: error });
    });
    const connection = new DoipConnection(socket, settings, log);
    if (settings.activationType === null) return connection;
    try {
      const { response_code: code } = await connection.activate(settings.activationType, signal);
      if (code === activationSucceeded) return connection;
      throw new AgentError("E_CONNECTION", `ECU at ${where} refuses routing activation: ${describeActivation(code)}`);
    } catch (error) {
      connection.close(new AgentError("E_CONNECTION", "routing activation failed"));
      throw error;
    }
  }

  private constructor(socket: Socket, settings: DoipSettings, log: Logger) {
    this.#socket = socket;
    this.#settings = settings;
    this.#log = log;
    const decoder = new DoipDecoder();
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const message of decoder.push(chunk)) this.#receive(message);
      } catch (error) {
        const { message } = toAgentError(error);
        this.close(new AgentError("E_CONNECTION", `connection to the ECU closed: ${message}`, { cause: error }));
      }
    });
    socket.on("end", () => this.close(new AgentError("E_CONNECTION", "the ECU has closed the connection")));
    socket.on("error", (error) => {
      const text = `the connection to the ECU is lost: ${toAgentError(error).message}`;
      this.close(new AgentError("E_CONNECTION", text, { cause: error }));
    });
    socket.on("close", () => this.close(new AgentError("E_CONNECTION", "the connection to the ECU is closed")));
  }

  /** Why it cannot be used any more. */
  get lost(): AgentError | undefined {
    return this.#lost;
  }

  /** Idempotent. Who waits gets the reason. */
  close(reason: AgentError): void {
    if (this.#lost !== undefined) return;
    this.#lost = reason;
    this.#socket.destroy();
    this.#inbox.clear();
    for (const each of this.#expected) each.fail(reason);
    this.#expected.clear();
    this.#ended.abort(reason);
  }

  async activate(type: number, signal: AbortSignal): Promise<RoutingActivation> {
    const { clientAddress } = this.#settings;
    const request = routingActivationRequest(clientAddress, type);
    return this.#ask(payloadTypes.routingActivationRequest, request, "routing activation", signal, (message) => {
      if (message.type !== payloadTypes.routingActivationResponse) return undefined;
      const answer = parseRoutingActivation(message.payload);
      return answer.client_logical_address === clientAddress ? answer : undefined;
    });
  }

  /** Asks what has no addresses. */
  request<T>(type: number, answerType: number, what: string, parse: (payload: Uint8Array) => T, signal: AbortSignal) {
    return this.#ask(type, new Uint8Array(), what, signal, (message) =>
      message.type === answerType ? parse(message.payload) : undefined,
    );
  }

  /** Done when the entity has acknowledged the message. @throws AgentError E_IO if it does not take it */
  async sendDiagnostic(data: Uint8Array, signal: AbortSignal): Promise<void> {
    const { clientAddress, ecuAddress } = this.#settings;
    const message = buildDiagnostic({ source: clientAddress, target: ecuAddress, data });
    const what = "the acknowledgement of a diagnostic message";
    await this.#ask(payloadTypes.diagnostic, message, what, signal, ({ type, payload }) => {
      const isNegative = type === payloadTypes.diagnosticNegativeAcknowledge;
      if (!isNegative && type !== payloadTypes.diagnosticAcknowledge) return undefined;
      const { source, target, data: rest } = parseAddressed(payload);
      if (source !== ecuAddress || target !== clientAddress) return undefined;
      if (!isNegative) return true;
      const code = describeDiagnosticNack(rest[0] ?? 0);
      throw new AgentError("E_IO", `the ECU does not take the diagnostic message: ${code}`);
    });
  }

  /** The next diagnostic message of the ECU, or undefined when the time is over. @throws the reason when it is lost */
  receiveDiagnostic({ timeoutMs, signal }: WaitOptions): Promise<Uint8Array | undefined> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    return this.#inbox.wait({ timeoutMs, signal: anySignal([signal, this.#ended.signal]) });
  }

  /** Forgets what came and was not fetched. */
  forgetReceived(): void {
    this.#inbox.clear();
  }

  #ask<T>(
    type: number,
    payload: Uint8Array,
    what: string,
    signal: AbortSignal,
    read: (message: DoipMessage) => T | undefined,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      if (this.#lost !== undefined) throw this.#lost;
      if (this.#socket.writableLength > mostUnsentBytes) {
        throw new AgentError("E_TIMEOUT", "the ECU takes no more data");
      }
      const onAbort = () => reject(signal.reason as Error);
      const leave = () => {
        clearTimeout(timer);
        this.#expected.delete(expectation);
        signal.removeEventListener("abort", onAbort);
      };
      const expectation: Expectation = {
        offer: (message) => {
          try {
            const answer = message.type === payloadTypes.negativeAcknowledge ? refused(message) : read(message);
            if (answer === undefined) return false;
            resolve(answer);
          } catch (error) {
            reject(toAgentError(error));
          }
          leave();
          return true;
        },
        fail: (error) => {
          leave();
          reject(error);
        },
      };
      const timer = setTimeout(
        () => expectation.fail(new AgentError("E_TIMEOUT", `no answer from the ECU within 2 s: ${what}`)),
        answerTimeoutMs,
      );
      signal.addEventListener("abort", onAbort, { once: true });
      this.#expected.add(expectation);
      this.#send(type, payload);
    });
  }

  #send(type: number, payload: Uint8Array): void {
    this.#socket.write(encodeMessage(this.#settings.version, type, payload));
  }

  #receive(message: DoipMessage): void {
    const { clientAddress, ecuAddress } = this.#settings;
    if (message.type === payloadTypes.aliveCheckRequest) {
      this.#send(payloadTypes.aliveCheckResponse, aliveCheckResponse(clientAddress));
      return;
    }
    if (message.type === payloadTypes.diagnostic) {
      if (message.payload.length < 5) return this.#log.warn("ignored a DoIP diagnostic message that is too short");
      const { source, target, data } = parseAddressed(message.payload);
      if (source !== ecuAddress || target !== clientAddress) {
        return this.#log.debug(`ignored a diagnostic message from ${source} to ${target}`);
      }
      if (this.#inbox.hasRoom(data.length)) this.#inbox.put(data);
      else this.#log.warn(`${inboxLimits.messages} diagnostic messages wait to be fetched; a new one was thrown away`);
      return;
    }
    for (const each of this.#expected) if (each.offer(message)) return;
    this.#log.debug(`ignored a DoIP message of type 0x${message.type.toString(16)}`);
  }
}

function refused(message: DoipMessage): never {
  throw new AgentError("E_IO", `the ECU rejects the DoIP message: ${describeHeaderNack(message.payload)}`);
}

/** Sent so often within the time of an answer, as datagrams get lost. */
const datagramTries = 3;

/** Asks an entity by UDP. @throws AgentError E_TIMEOUT, E_IO; the signal's reason */
export async function askByDatagram<T>(
  settings: DoipSettings,
  ask: { readonly type: number; readonly payload?: Uint8Array; readonly answerType: number; readonly what: string },
  parse: (payload: Uint8Array) => T,
  signal: AbortSignal,
): Promise<T> {
  signal.throwIfAborted();
  const { host, udpPort, version } = settings;
  const family = isIPv6(host) ? "ipv6" : "ipv4";
  const entity = new BlockList();
  entity.addAddress(host.replace(/%.*/, ""), family);
  const socket = createSocket(family === "ipv6" ? "udp6" : "udp4");
  const over = new AbortController();
  try {
    const answer = new Promise<T>((resolve, reject) => {
      socket.on("error", reject);
      socket.on("message", (datagram, { address }) => {
        if (!entity.check(address.replace(/%.*/, ""), family)) return;
        try {
          const message = decodeDatagram(datagram);
          if (message.type === payloadTypes.negativeAcknowledge) refused(message);
          if (message.type === ask.answerType) resolve(parse(message.payload));
        } catch (error) {
          reject(toAgentError(error));
        }
      });
      over.signal.addEventListener("abort", () => reject(over.signal.reason as Error), { once: true });
      signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true, signal: over.signal });
    });
    const request = encodeMessage(version, ask.type, ask.payload);
    const sendAll = async () => {
      for (let tries = 0; tries < datagramTries; tries += 1) {
        socket.send(request, udpPort, host);
        await sleep(answerTimeoutMs / datagramTries, undefined, { signal: over.signal });
      }
      throw new AgentError("E_TIMEOUT", `no answer from the ECU at ${host} within 2 s: ${ask.what}`);
    };
    return await Promise.race([answer, sendAll()]);
  } finally {
    over.abort(new AgentError("E_CANCELLED", "answered"));
    socket.close();
  }
}
