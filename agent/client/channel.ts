/**
 * A gRPC client on Node's own HTTP/2, the counterpart of agent/session/rpc-server.ts: `j` starts in half the time
 * that grpc-js takes to load, and an upload costs a fraction of its CPU.
 */
import { AgentError, toAgentError } from "../driver/errors.ts";
import { MessageReader, prefixed } from "../stream/rpc-messages.ts";
import type { Address } from "./address.ts";
import { follow, type CallOptions, type RpcCall } from "./call.ts";
import { Connection, type ChannelOptions } from "./connection.ts";
import { fromConnectionError } from "./errors.ts";
import type { RpcMethod } from "./rpc-method.ts";
import { createLookup } from "./transport.ts";

export type { CallOptions, RpcCall } from "./call.ts";
export type { ChannelOptions, Security } from "./connection.ts";

/** A server that finds the pings too many is pinged half as often, but not less than this. */
const rarestPingMs = 10 * 60_000;

/**
 * The way to one server: connected at the first call, and again at the next one after the connection was lost. There
 * is a second connection when the first has as many calls as the server allows, or ends with the calls it has.
 */
export class Channel {
  readonly #address: Address;
  readonly #options: ChannelOptions;
  readonly #connections = new Set<Connection>();
  readonly #lookup = createLookup();
  #keepaliveMs: number | undefined;

  constructor(address: Address, options: ChannelOptions) {
    this.#address = address;
    this.#options = options;
    this.#keepaliveMs = options.keepaliveMs;
  }

  async unary<Q, R>(method: RpcMethod<Q, R>, request: Q, options: CallOptions): Promise<R> {
    const answers: R[] = [];
    for await (const answer of this.serverStream(method, request, options)) answers.push(answer);
    const [answer] = answers;
    if (answer === undefined) throw new AgentError("E_FAILED", `${options.what} was answered with nothing`);
    return answer;
  }

  /** Leaving the loop early cancels the RPC. */
  async *serverStream<Q, R>(
    method: RpcMethod<Q, R>,
    request: Q,
    options: CallOptions,
  ): AsyncGenerator<R, void, undefined> {
    const call = this.start(method.path, {}, options);
    call.stream.end(prefixed(method.encode(request)));
    const reader = new MessageReader("CLIENT");
    let refused: AgentError | undefined;
    const decode = (chunk: Buffer): R[] => {
      const answers: R[] = [];
      try {
        reader.read(chunk, (message) => answers.push(method.decode(message)));
      } catch (error) {
        refused = toAgentError(error);
        throw refused;
      }
      return answers;
    };
    try {
      for await (const chunk of call.stream) yield* decode(chunk as Buffer);
    } catch {
      // The stream broke, or was nothing that can be read; its status says why.
    } finally {
      call.cancel(refused);
    }
    await call.status;
    if (refused !== undefined) throw refused;
  }

  /** Opens an RPC and leaves its messages to the caller. */
  start(path: string, headers: Readonly<Record<string, string>>, options: CallOptions): RpcCall {
    const { signal, metadata, deadlineMs } = options;
    signal?.throwIfAborted();
    const { passphrase } = this.#options;
    // Unlike close(), an abort does not half-close the stream first: a cancelled upload must not look complete.
    const abort = new AbortController();
    const requestHeaders = {
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      "user-agent": "jumpstarter-agent",
      ...(passphrase === undefined || this.#address.kind === "unix" ? {} : { "x-jumpstarter-passphrase": passphrase }),
      ...(deadlineMs === undefined ? {} : { "grpc-timeout": timeoutHeader(deadlineMs) }),
      ...metadata,
      ...headers,
    };
    try {
      const connection = this.#connection();
      const heard = connection.heard;
      return follow(connection.request(requestHeaders, abort.signal), abort, options, () => {
        if (connection.heard === heard) connection.doubt();
      });
    } catch (error) {
      throw fromConnectionError(error);
    }
  }

  /** Ends the connections; calls that still run are cut after a moment. */
  async close(): Promise<void> {
    await Promise.all([...this.#connections].map((connection) => connection.close()));
  }

  #connection(): Connection {
    for (const known of this.#connections) if (known.usable) return known;
    const connection: Connection = new Connection(
      this.#address,
      { ...this.#options, keepaliveMs: this.#keepaliveMs },
      this.#lookup,
      {
        tooManyPings: () => {
          if (this.#keepaliveMs !== undefined) this.#keepaliveMs = Math.min(2 * this.#keepaliveMs, rarestPingMs);
        },
        closed: () => this.#connections.delete(connection),
      },
    );
    this.#connections.add(connection);
    return connection;
  }
}

/** gRPC allows eight digits. */
function timeoutHeader(ms: number): string {
  return ms < 100_000_000 ? `${Math.ceil(ms)}m` : `${Math.ceil(ms / 1_000)}S`;
}
