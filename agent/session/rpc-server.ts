/**
 * A gRPC server on Node's own HTTP/2: what the session needs and no more. Against grpc-js it costs a third of the
 * CPU per call and per frame, needs half its memory, and its receive windows can be set (see windows.ts).
 */
import {
  constants,
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import { AgentError, grpcStatusOf, toAgentError } from "../driver/errors.ts";
import { MessageReader, prefixed } from "../stream/rpc-messages.ts";
import { ReceiveWindows } from "./windows.ts";

/** What a method's code knows of the RPC it serves. */
export interface Rpc {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  /** Aborted when the caller cancels, its deadline passes, its connection is lost, or the server closes. */
  readonly signal: AbortSignal;
}

interface Codec<Request, Response> {
  readonly decode: (message: Buffer) => Request;
  readonly encode: (response: Response) => Uint8Array;
}

/** Request and response types are known only to the method itself. */
export type RpcMethod =
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  UnaryRpc<any, any> | StreamingRpc<any, any> | BidiRpc;

export interface UnaryRpc<Request, Response> extends Codec<Request, Response> {
  readonly kind: "unary";
  readonly handle: (request: Request, rpc: Rpc) => Promise<Response> | Response;
}

export interface StreamingRpc<Request, Response> extends Codec<Request, Response> {
  readonly kind: "streaming";
  readonly handle: (request: Request, rpc: Rpc) => AsyncIterable<Response>;
}

/** Messages both ways; the handler has the HTTP/2 stream to itself. */
export interface BidiRpc {
  readonly kind: "bidi";
  readonly handle: (call: BidiCall) => Promise<void>;
}

export interface BidiCall extends Rpc {
  readonly stream: ServerHttp2Stream;
  /** Sends the initial metadata; at once, because the caller waits for it. */
  sendMetadata(metadata: Record<string, string>): void;
}

export interface RpcServerOptions {
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer } | undefined;
  /** Throws an AgentError to refuse an RPC. */
  readonly admit: (path: string, headers: IncomingHttpHeaders) => void;
  /** Streams that one connection may have open; further ones wait in the client. */
  readonly maxStreamsPerConnection?: number;
  /** How often a silent connection is asked for a sign of life, and how long it may take to answer. */
  readonly keepaliveMs?: number;
  readonly keepaliveTimeoutMs?: number;
}

const responseHeaders = { ":status": 200, "content-type": "application/grpc", "grpc-accept-encoding": "identity" };

export class RpcServer {
  readonly http2: Http2Server | Http2SecureServer;
  readonly #methods: ReadonlyMap<string, RpcMethod>;
  readonly #options: RpcServerOptions;
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #windows = new ReceiveWindows();
  readonly #aborts = new Set<AbortController>();

  constructor(methods: ReadonlyMap<string, RpcMethod>, options: RpcServerOptions) {
    this.#methods = methods;
    this.#options = options;
    const common = {
      settings: {
        ...this.#windows.initialSettings,
        maxConcurrentStreams: options.maxStreamsPerConnection ?? 1024,
      },
      // The limit counts what waits for slow readers, which the handlers bound themselves.
      maxSessionMemory: Number.MAX_SAFE_INTEGER,
      // Clients cancel calls in bursts; newer Node takes more than some for an attack.
      streamResetBurst: 10_000,
      streamResetRate: 1_000,
    };
    this.http2 =
      options.tls === undefined
        ? createServer(common)
        : createSecureServer({ ...common, cert: options.tls.cert, key: options.tls.key });
    this.http2.on("session", (session: ServerHttp2Session) => this.#onSession(session));
    this.http2.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) =>
      this.#onStream(stream, headers),
    );
    // A connection that is no HTTP/2 or breaks in its handshake ends alone.
    this.http2.on("sessionError", () => {});
    this.http2.on("tlsClientError", () => {});
  }

  /** Ends all connections: calls that run may finish within the grace, then they are cancelled. */
  async close(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      if (this.http2.listening) this.http2.close(() => resolve());
      else resolve();
    });
    for (const session of this.#sessions) session.close();
    const forced = setTimeout(() => {
      for (const abort of this.#aborts) abort.abort(new AgentError("E_CANCELLED", "the exporter is closing"));
      for (const session of this.#sessions) session.destroy(undefined, constants.NGHTTP2_CANCEL);
    }, graceMs);
    const ended = [...this.#sessions].map((session) => new Promise((resolve) => session.once("close", resolve)));
    await Promise.all([closed, ...ended]);
    clearTimeout(forced);
  }

  #onSession(session: ServerHttp2Session): void {
    this.#sessions.add(session);
    this.#windows.opened(session);
    const { keepaliveMs = 30_000, keepaliveTimeoutMs = 20_000 } = this.#options;
    let overdue: NodeJS.Timeout | undefined;
    const keepalive = setInterval(() => {
      if (overdue !== undefined || session.destroyed) return;
      overdue = setTimeout(() => session.destroy(), keepaliveTimeoutMs);
      session.ping(() => {
        clearTimeout(overdue);
        overdue = undefined;
      });
    }, keepaliveMs);
    session.on("error", () => {});
    session.once("close", () => {
      clearInterval(keepalive);
      clearTimeout(overdue);
      this.#sessions.delete(session);
    });
  }

  #onStream(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    // The reason of a broken stream shows up as "close"; every call watches that.
    stream.on("error", () => {});
    const path = headers[":path"] ?? "";
    if (!headers["content-type"]?.startsWith("application/grpc")) {
      stream.respond({ ":status": 415 }, { endStream: true });
      stream.close(constants.NGHTTP2_NO_ERROR);
      return;
    }
    const abort = new AbortController();
    this.#aborts.add(abort);
    const deadline = startDeadline(headers["grpc-timeout"], abort, stream);
    stream.once("close", () => {
      this.#aborts.delete(abort);
      clearTimeout(deadline);
      abort.abort(new AgentError("E_CANCELLED", "the caller has gone"));
    });
    try {
      this.#options.admit(path, headers);
      const method = this.#methods.get(path);
      if (method === undefined) {
        throw new AgentError("E_UNSUPPORTED", `The server does not implement the method ${path}`);
      }
      this.#serve(method, stream, { path, headers, signal: abort.signal });
    } catch (error) {
      sendStatus(stream, error);
    }
  }

  #serve(method: RpcMethod, stream: ServerHttp2Stream, rpc: Rpc): void {
    if (method.kind === "bidi") {
      const release = this.#windows.streamStarted(stream.session as ServerHttp2Session | undefined);
      stream.once("close", release);
      const sendMetadata = (metadata: Record<string, string>) => {
        stream.respond({ ...responseHeaders, ...metadata }, { waitForTrailers: true });
      };
      method.handle({ ...rpc, stream, sendMetadata }).then(
        () => sendStatus(stream),
        (error: unknown) => sendStatus(stream, error),
      );
      return;
    }
    readOneMessage(stream, (message) => {
      const run =
        method.kind === "unary" ? answer(method, message, stream, rpc) : respond(method, message, stream, rpc);
      run.catch((error: unknown) => sendStatus(stream, error));
    });
  }
}

async function answer(
  method: UnaryRpc<unknown, unknown>,
  message: Buffer,
  stream: ServerHttp2Stream,
  rpc: Rpc,
): Promise<void> {
  const response = await method.handle(decode(method, message, rpc), rpc);
  if (stream.destroyed || stream.closed) return;
  const framed = prefixed(method.encode(response));
  stream.respond(responseHeaders, { waitForTrailers: true });
  endWithStatus(stream, { "grpc-status": 0 });
  stream.end(framed);
}

/** Sends items as fast as the transport takes them; the next one is asked for only then. */
async function respond(
  method: StreamingRpc<unknown, unknown>,
  message: Buffer,
  stream: ServerHttp2Stream,
  rpc: Rpc,
): Promise<void> {
  const items = method.handle(decode(method, message, rpc), rpc);
  stream.respond(responseHeaders, { waitForTrailers: true });
  for await (const item of items) {
    if (stream.destroyed) return;
    if (!stream.write(prefixed(method.encode(item)))) await drained(stream);
    if (stream.destroyed) return;
  }
  sendStatus(stream);
}

function decode(method: Codec<unknown, unknown>, message: Buffer, rpc: Rpc): unknown {
  try {
    return method.decode(message);
  } catch (error) {
    throw new AgentError("E_INVALID", `malformed request of ${rpc.path}: ${toAgentError(error).message}`);
  }
}

/** Hands on the one message of a request; what does not look like one is answered here. */
function readOneMessage(stream: ServerHttp2Stream, take: (message: Buffer) => void): void {
  const reader = new MessageReader();
  let taken = false;
  const takeOne = (message: Buffer) => {
    if (taken) throw new AgentError("E_INVALID", "more than one request message");
    taken = true;
    take(message);
  };
  stream.on("data", (chunk: Buffer) => {
    try {
      reader.read(chunk, takeOne);
    } catch (error) {
      sendStatus(stream, error);
    }
  });
  stream.once("end", () => {
    if (!taken) sendStatus(stream, new AgentError("E_INVALID", "the request ended before its message was complete"));
  });
}

/** Resolves when the stream takes more, or is gone. */
function drained(stream: ServerHttp2Stream): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off("drain", done);
      stream.off("close", done);
      resolve();
    };
    stream.once("drain", done);
    stream.once("close", done);
  });
}

/** Ends an RPC, with OK or with what the error says. Does nothing when it is already ended. */
function sendStatus(stream: ServerHttp2Stream, thrown?: unknown): void {
  if (stream.destroyed || stream.closed || stream.writableEnded) return;
  const trailers = statusOf(thrown);
  if (!stream.headersSent) {
    stream.respond({ ...responseHeaders, ...trailers }, { endStream: true });
    closeWhenSent(stream);
    return;
  }
  endWithStatus(stream, trailers);
  stream.end();
}

function endWithStatus(stream: ServerHttp2Stream, trailers: OutgoingHttpHeaders): void {
  stream.once("wantTrailers", () => {
    stream.sendTrailers(trailers);
    closeWhenSent(stream);
  });
}

/** Whoever answers before the caller has sent everything must say that the rest is not wanted. */
function closeWhenSent(stream: ServerHttp2Stream): void {
  if (stream.readableEnded) return;
  stream.resume();
  setImmediate(() => {
    if (!stream.readableEnded && !stream.destroyed) stream.close(constants.NGHTTP2_NO_ERROR);
  });
}

/** Clients keep 8 KiB of metadata at most; a longer text would cost them the status too. */
const longestStatusText = 4_000;

function statusOf(thrown: unknown): OutgoingHttpHeaders {
  if (thrown === undefined) return { "grpc-status": 0 };
  const error = toAgentError(thrown);
  return { "grpc-status": grpcStatusOf(error), "grpc-message": percentEncoded(error.message) };
}

/** The gRPC form of a status text: printable ASCII but `%`, everything else as %XX of its UTF-8 bytes. */
function percentEncoded(text: string): string {
  let encoded = "";
  for (const byte of Buffer.from(text)) {
    if (encoded.length >= longestStatusText) break;
    encoded +=
      byte >= 0x20 && byte <= 0x7e && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return encoded;
}

const unitsInMs: Record<string, number> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 0.001, n: 0.000_001 };

function startDeadline(
  timeout: string | string[] | undefined,
  abort: AbortController,
  stream: ServerHttp2Stream,
): NodeJS.Timeout | undefined {
  const [, amount, unit] = /^(\d{1,8})([HMSmun])$/.exec(String(timeout)) ?? [];
  if (amount === undefined || unit === undefined) return undefined;
  const timeoutMs = Math.min(Number(amount) * (unitsInMs[unit] ?? 1), 2 ** 31 - 1);
  return setTimeout(() => {
    const error = new AgentError("E_TIMEOUT", "Deadline Exceeded");
    sendStatus(stream, error);
    abort.abort(error);
  }, timeoutMs);
}
