/**
 * A gRPC client on Node's own HTTP/2, the counterpart of agent/session/rpc-server.ts: `j` starts in half the time
 * that grpc-js takes to load, and an upload costs a fraction of its CPU.
 */
import { readFileSync } from "node:fs";
import {
  connect,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
} from "node:http2";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { MessageReader, prefixed } from "../stream/rpc-messages.ts";
import { fromConnectionError, fromStatus } from "./errors.ts";
import type { Address } from "./address.ts";
import type { RpcMethod } from "./rpc-method.ts";
import { openTransport } from "./transport.ts";

export interface Security {
  /** Plaintext HTTP/2 on TCP. A unix socket is always plaintext. */
  readonly insecure?: boolean | undefined;
  /** Sent with every RPC on TCP; a unix socket is protected by its directory. */
  readonly passphrase?: string | undefined;
  /** PEM certificates to trust instead of the system's roots. */
  readonly ca?: Buffer | string | undefined;
}

export interface CallOptions {
  /** Names the call in errors that carry no text: `power.on`. */
  readonly what: string;
  readonly signal?: AbortSignal | undefined;
}

/** An RPC under way. Whoever started it reads or resumes its stream. */
export interface RpcCall {
  readonly stream: ClientHttp2Stream;
  /** Rejects like `status` if the RPC ends before it. */
  readonly metadata: Promise<IncomingHttpHeaders>;
  /** Settles when the RPC is over. @throws AgentError for any status but OK, and when the connection is lost */
  readonly status: Promise<void>;
  /** @param reason what the status rejects with, if it is not known yet. */
  cancel(reason?: AgentError): void;
}

/**
 * What may be under way to us, per stream and per connection. With HTTP/2's 64 KiB a dump over a link of 20 ms
 * runs at 3 MB/s. It is also what a slow disk here may leave in memory.
 */
const receiveWindowBytes = 16 * 1024 * 1024;

/** How long the last cancels may take to be sent when the channel closes. */
const closeGraceMs = 500;

/** The connection to one session: made at the first call, and again at the next one after it was lost. */
export class Channel {
  readonly #address: Address;
  readonly #security: Security;
  #session: ClientHttp2Session | undefined;

  constructor(address: Address, security: Security) {
    this.#address = address;
    this.#security = security;
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
  start(path: string, headers: Readonly<Record<string, string>>, { what, signal }: CallOptions): RpcCall {
    signal?.throwIfAborted();
    const { passphrase } = this.#security;
    const session = this.#connected();
    // Unlike close(), an abort does not half-close the stream first: a cancelled upload must not look complete.
    const abort = new AbortController();
    const requestHeaders = {
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      "user-agent": "jumpstarter-agent",
      ...(passphrase === undefined || this.#address.kind === "unix" ? {} : { "x-jumpstarter-passphrase": passphrase }),
      ...headers,
    };
    return follow(session.request(requestHeaders, { signal: abort.signal }), abort, { what, signal });
  }

  /** Ends the connection; calls that still run are cut after a moment. */
  async close(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (session === undefined || session.destroyed) return;
    await new Promise<void>((resolve) => {
      const cut = setTimeout(() => session.destroy(), closeGraceMs);
      session.close(() => {
        clearTimeout(cut);
        resolve();
      });
    });
  }

  #connected(): ClientHttp2Session {
    const known = this.#session;
    if (known !== undefined && !known.closed && !known.destroyed) return known;
    const address = this.#address;
    const { insecure, ca } = this.#security;
    const plaintext = address.kind === "unix" || insecure === true;
    const authority = address.kind === "unix" ? "localhost" : hostPort(address);
    const session = connect(`${plaintext ? "http" : "https"}://${authority}`, {
      settings: { enablePush: false, initialWindowSize: receiveWindowBytes },
      // The limit counts what waits for slow readers, which the windows bound already.
      maxSessionMemory: Number.MAX_SAFE_INTEGER,
      createConnection: () => openTransport(address, plaintext ? undefined : { ca: ca ?? systemRoots() }),
    });
    session.once("connect", () => session.setLocalWindowSize(receiveWindowBytes));
    // Calls learn of a broken connection from their streams.
    session.on("error", () => {});
    this.#session = session;
    return session;
  }
}

function hostPort({ host, port }: { host: string; port: number }): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** The roots that the machine's administrator trusts (Debian's place), else those that Node brings along. */
function systemRoots(): Buffer | undefined {
  try {
    return readFileSync(process.env["SSL_CERT_FILE"] ?? "/etc/ssl/certs/ca-certificates.crt");
  } catch {
    return undefined;
  }
}

/** Watches an RPC's headers, trailers and end. */
function follow(stream: ClientHttp2Stream, abort: AbortController, { what, signal }: CallOptions): RpcCall {
  let failure: unknown;
  const cancel = (reason?: AgentError) => {
    failure ??= reason ?? new AgentError("E_CANCELLED", `${what} was cancelled`, { cause: signal?.reason });
    abort.abort();
  };
  const onAbort = () => cancel();
  signal?.addEventListener("abort", onAbort, { once: true });
  stream.once("error", (error) => {
    failure ??= error;
  });

  let begin: (headers: IncomingHttpHeaders) => void;
  const status = new Promise<void>((resolve, reject) => {
    const end = (headers: IncomingHttpHeaders) => {
      const error = fromStatus(headers, what);
      if (error === undefined) resolve();
      else reject(error);
    };
    stream.once("response", (headers: IncomingHttpHeaders & IncomingHttpStatusHeader) => {
      // A status in the first headers means that nothing else comes.
      if (headers["grpc-status"] !== undefined || headers[":status"] !== 200) end(headers);
      else begin(headers);
    });
    stream.once("trailers", end);
    stream.once("close", () => {
      signal?.removeEventListener("abort", onAbort);
      reject(fromConnectionError(failure));
    });
  });
  const metadata = new Promise<IncomingHttpHeaders>((resolve, reject) => {
    begin = resolve;
    status.catch(reject);
  });
  metadata.catch(() => {}); // not everybody waits for it
  return { stream, metadata, status, cancel };
}
