/**
 * A gRPC server on Node's own HTTP/2: what the session needs and no more. grpc-js has no option for a server's
 * receive windows, copies every message twice, and costs start-up time and memory.
 */
import {
  constants,
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { Duplex } from "node:stream";
import type { Cancellable } from "../driver/driver.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import { MessageReader } from "../stream/rpc-messages.ts";
import { RpcCall } from "./rpc-call.ts";
import { ReceiveWindows } from "./windows.ts";

interface Codec<Request, Response> {
  readonly decode: (message: Buffer) => Request;
  readonly encode: (response: Response) => Uint8Array;
}

/** One message each way. */
export interface UnaryRpc<Request, Response> extends Codec<Request, Response> {
  readonly kind: "unary";
  readonly handle: (request: Request, call: Cancellable) => Promise<Response> | Response;
}

/** One message in, any number out: the next is asked for when the transport has taken the last. */
export interface StreamingRpc<Request, Response> extends Codec<Request, Response> {
  readonly kind: "streaming";
  readonly handle: (request: Request, call: Cancellable) => AsyncIterator<Response, unknown, undefined>;
}

/** Messages both ways: the handler has the HTTP/2 stream to itself. The RPC ends as its promise does. */
export interface BidiRpc {
  readonly kind: "bidi";
  readonly handle: (call: RpcCall) => Promise<void>;
}

/** Request and response types are known only to the method itself. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type RpcMethod = UnaryRpc<any, any> | StreamingRpc<any, any> | BidiRpc;

export interface RpcServerOptions {
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer } | undefined;
  /** Throws an AgentError to refuse an RPC. */
  readonly admit: (path: string, headers: IncomingHttpHeaders) => void;
  readonly log: Logger;
  /** Connections that may be open at once; the next one is told to go away. */
  readonly maxConnections?: number;
  /** Streams that one connection may have open; further ones wait in the client. */
  readonly maxStreamsPerConnection?: number;
  /** How often a connection is asked for a sign of life, and how long it may take to answer. */
  readonly keepaliveMs?: number;
  readonly keepaliveTimeoutMs?: number;
}

const defaultMaxConnections = 256;

/** How long a refused connection may take to read why. */
const refusalMs = 1_000;

/** How long the cancels of calls that were cut may take to be sent. */
const lastWordsMs = 250;

export class RpcServer {
  readonly http2: Http2Server | Http2SecureServer;
  readonly #methods: ReadonlyMap<string, RpcMethod>;
  readonly #options: RpcServerOptions;
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #sockets = new Set<Duplex>();
  readonly #windows = new ReceiveWindows();

  constructor(methods: ReadonlyMap<string, RpcMethod>, options: RpcServerOptions) {
    this.#methods = methods;
    this.#options = options;
    const common = {
      settings: {
        ...this.#windows.initialSettings,
        maxConcurrentStreams: options.maxStreamsPerConnection ?? 1024,
      },
      // What waits for slow readers is bounded by the handlers; Node would cut the connection.
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
    this.http2.on("connection", (socket: Duplex) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
    const { log, maxConnections = defaultMaxConnections } = options;
    // What is not HTTP/2 yet, or on its way out, is bounded too, but there is nobody to talk to.
    this.http2.maxConnections = maxConnections * 2;
    this.http2.on("drop", () => log.warn("a connection is cut: too many at once"));
    // Before it listens, its errors belong to who wants it to.
    this.http2.once("listening", () => {
      this.http2.on("error", (error) => log.error(`the listener failed: ${toAgentError(error).message}`));
    });
    // A connection that is no HTTP/2 or breaks in its handshake ends alone.
    this.http2.on("sessionError", () => {});
    this.http2.on("tlsClientError", () => {});
  }

  /** Serves a connection that came some other way, e.g. through a tunnel. */
  inject(connection: Duplex): void {
    // HTTP/2 has no use for half a connection. Node would half-close what is not a socket in answer, and end with an
    // assertion at the next byte that a call writes; so this must come before Node's own listener.
    connection.once("end", () => connection.destroy());
    this.http2.emit("connection", connection);
  }

  /** Ends all connections: calls that run may finish within the grace, then they are cancelled. */
  async close(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      if (this.http2.listening) this.http2.close(() => resolve());
      else resolve();
    });
    const ended = [...this.#sessions].map((session) => new Promise((resolve) => session.once("close", resolve)));
    for (const session of this.#sessions) session.close();
    const forced = setTimeout(() => {
      for (const session of this.#sessions) session.destroy(undefined, constants.NGHTTP2_CANCEL);
    }, graceMs);
    // A session waits for what it has still to send; a peer that takes nothing, or never came, must not hold it.
    const cut = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy();
    }, graceMs + lastWordsMs);
    await Promise.all([closed, ...ended]);
    clearTimeout(forced);
    clearTimeout(cut);
  }

  #onSession(session: ServerHttp2Session): void {
    const {
      log,
      maxConnections = defaultMaxConnections,
      keepaliveMs = 30_000,
      keepaliveTimeoutMs = 20_000,
    } = this.#options;
    if (this.#sessions.size >= maxConnections) {
      log.warn(`a connection is refused: ${maxConnections} are open`);
      refuse(session, `this exporter serves no more than ${maxConnections} connections at once`);
      return;
    }
    this.#sessions.add(session);
    this.#windows.opened(session);
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
    const call = new RpcCall(stream, headers);
    if (!headers["content-type"]?.startsWith("application/grpc")) {
      stream.respond({ ":status": 415 }, { endStream: true });
      stream.close(constants.NGHTTP2_NO_ERROR);
      return;
    }
    try {
      this.#options.admit(call.path, headers);
      const method = this.#methods.get(call.path);
      if (method === undefined) {
        throw new AgentError("E_UNSUPPORTED", `The server does not implement the method ${call.path}`);
      }
      if (method.kind === "bidi") this.#serveBidi(method, call);
      else
        readRequest(
          call,
          (message) =>
            void (method.kind === "unary" ? answer(method, message, call) : answerMany(method, message, call)),
        );
    } catch (error) {
      call.finish(error);
    }
  }

  #serveBidi(method: BidiRpc, call: RpcCall): void {
    call.stream.once("close", this.#windows.streamStarted(call.stream.session as ServerHttp2Session | undefined));
    method.handle(call).then(
      () => call.finish(),
      (error: unknown) => call.finish(error),
    );
  }
}

/** Ends a connection with a reason; gRPC clients fail their calls with RESOURCE_EXHAUSTED or UNAVAILABLE. */
function refuse(session: ServerHttp2Session, reason: string): void {
  session.on("error", () => {});
  session.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM, 0, Buffer.from(reason));
  session.close();
  const cut = setTimeout(() => session.destroy(), refusalMs);
  session.once("close", () => clearTimeout(cut));
}

/** Hands on the one message of a request; what does not look like one is answered here. */
function readRequest(call: RpcCall, take: (message: Buffer) => void): void {
  const reader = new MessageReader("SERVER");
  let taken = false;
  const takeOne = (message: Buffer) => {
    if (taken) throw new AgentError("E_INVALID", "more than one request message");
    taken = true;
    take(message);
  };
  call.stream.on("data", (chunk: Buffer) => {
    try {
      if (call.open) reader.read(chunk, takeOne);
    } catch (error) {
      call.finish(error);
    }
  });
  call.stream.once("end", () => {
    if (!taken) call.finish(new AgentError("E_INVALID", "the request ended before its message was complete"));
  });
}

async function answer(method: UnaryRpc<unknown, unknown>, message: Buffer, call: RpcCall): Promise<void> {
  try {
    const response = await method.handle(decode(method, message, call), call);
    call.answer(method.encode(response));
  } catch (error) {
    call.finish(error);
  }
}

async function answerMany(method: StreamingRpc<unknown, unknown>, message: Buffer, call: RpcCall): Promise<void> {
  try {
    const items = method.handle(decode(method, message, call), call);
    // A generator that waits for its next item ends when that wait does; nobody here needs to wait with it.
    call.stream.once("close", () => void items.return?.()?.catch(() => {}));
    call.sendMetadata();
    for (;;) {
      const item = await items.next();
      if (item.done === true || !call.open) break;
      if (!call.sendMessage(method.encode(item.value))) await call.drained();
    }
    call.finish();
  } catch (error) {
    call.finish(error);
  }
}

function decode(method: Codec<unknown, unknown>, message: Buffer, call: RpcCall): unknown {
  try {
    return method.decode(message);
  } catch (error) {
    throw new AgentError("E_INVALID", `malformed request of ${call.path}: ${toAgentError(error).message}`);
  }
}
