import { connect, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { AgentError } from "../driver/errors.ts";
import type { BridgedStream } from "../driver/bridge.ts";
import type { Cancellable } from "../driver/driver.ts";
import { kinds, message, parseAnswer, parseMetadata, MessageCutter, type Message } from "./protocol.ts";

/** Connections that wait for the next call; more are closed. */
const keptIdle = 32;

/** Answers of a streaming call that wait for its caller. */
const mostWaiting = 64;

/** Tells why a connection ended in the middle of a call. */
export type WhyLost = () => Promise<AgentError>;

/**
 * The connections to the drivers of one session. Each carries one call at a time: a caller that gives up hangs up, which
 * cancels the call there, and a slow one holds up nobody else.
 */
export class Connections {
  readonly #path: string;
  readonly #whyLost: WhyLost;
  readonly #buffers = new ReadBuffers();
  readonly #idle: Connection[] = [];
  readonly #open = new Set<Socket>();

  /** @param path of the session's unix socket */
  constructor(path: string, whyLost: WhyLost) {
    this.#path = path;
    this.#whyLost = whyLost;
  }

  /** @throws AgentError with the answer of the other side, or why there is none */
  async unary(request: Uint8Array, caller: Cancellable): Promise<Uint8Array> {
    const { signal } = caller;
    signal.throwIfAborted();
    const connection = this.#take();
    const { socket } = connection;
    return await new Promise((resolve, reject) => {
      const settle = (then: () => void, reusable: boolean) => {
        signal.removeEventListener("abort", hangUp);
        connection.reader = undefined;
        socket.off("close", lost);
        if (reusable) this.#keep(connection);
        else socket.destroy();
        then();
      };
      const hangUp = () => settle(() => reject(signal.reason as Error), false);
      const lost = () => settle(() => void this.#whyLost().then(reject), false);
      const cutter = new MessageCutter();
      connection.reader = (bytes) => {
        for (const { kind, payload } of cutter.cut(bytes)) {
          if (kind === kinds.message) settle(() => resolve(payload), true);
          else if (kind === kinds.ended) settle(() => reject(parseAnswer(payload) ?? nonsense()), true);
          else settle(() => reject(nonsense()), false);
          return false;
        }
        return false;
      };
      socket.once("close", lost);
      signal.addEventListener("abort", hangUp, { once: true });
      socket.write(message(kinds.unary, request));
    });
  }

  /** Leaving the loop early cancels the call. @throws like `unary` */
  async *streaming(request: Uint8Array, caller: Cancellable): AsyncGenerator<Uint8Array, void, undefined> {
    const { signal } = caller;
    signal.throwIfAborted();
    const connection = this.#take();
    const { socket } = connection;
    const cutter = new MessageCutter();
    const messages: Message[] = [];
    let wake = () => {};
    const closed = () => wake();
    connection.reader = (bytes) => {
      messages.push(...cutter.cut(bytes));
      if (messages.length > mostWaiting) socket.pause();
      wake();
      return false;
    };
    const hangUp = () => socket.destroy();
    signal.addEventListener("abort", hangUp, { once: true });
    socket.once("close", closed);
    try {
      socket.write(message(kinds.streaming, request));
      for (;;) {
        const next = messages.shift();
        if (next === undefined) {
          signal.throwIfAborted();
          if (socket.destroyed) throw await this.#whyLost();
          socket.resume();
          await new Promise<void>((resolve) => (wake = resolve));
        } else if (next.kind === kinds.message) {
          yield next.payload;
        } else {
          const error = parseAnswer(next.payload);
          if (error !== undefined) throw error;
          return;
        }
      }
    } finally {
      signal.removeEventListener("abort", hangUp);
      socket.destroy();
    }
  }

  /** @throws like `unary`, before the stream begins */
  async stream(request: object, caller: Cancellable): Promise<BridgedStream> {
    caller.signal.throwIfAborted();
    const stream = new SocketStream(this.#take(), this.#buffers, this.#whyLost);
    stream.once("close", () => this.#open.delete(stream.socket));
    const hangUp = () => stream.destroy(caller.signal.reason as Error);
    caller.signal.addEventListener("abort", hangUp, { once: true });
    stream.once("close", () => caller.signal.removeEventListener("abort", hangUp));
    stream.socket.write(message(kinds.stream, Buffer.from(JSON.stringify(request))));
    return { stream, metadata: await stream.metadata, release: (chunk) => stream.release(chunk) };
  }

  /** Hangs up everywhere. */
  close(): void {
    for (const socket of this.#open) socket.destroy();
  }

  #take(): Connection {
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    const connection = new Connection(this.#path, this.#buffers);
    const { socket } = connection;
    this.#open.add(socket);
    socket.once("close", () => {
      this.#open.delete(socket);
      const at = this.#idle.indexOf(connection);
      if (at >= 0) this.#idle.splice(at, 1);
    });
    return connection;
  }

  #keep(connection: Connection): void {
    if (connection.socket.destroyed || this.#idle.length >= keptIdle) connection.socket.destroy();
    else this.#idle.push(connection);
  }
}

const bufferBytes = 128 * 1024;
const mostFree = 16;

/** What connections read into, again and again: a new buffer for each read would keep the garbage collector busy. */
class ReadBuffers {
  readonly #free: Buffer[] = [];

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(bufferBytes);
  }

  /** @param bytes all or a part of a buffer that was taken, and that nobody reads any more */
  give({ buffer }: Buffer): void {
    if (this.#free.length < mostFree) this.#free.push(Buffer.from(buffer));
  }
}

/** A connection, and who reads it now. */
class Connection {
  readonly socket: Socket;
  /** Returns true if it keeps the bytes; else they are no more when it returns. */
  reader: ((bytes: Buffer) => boolean) | undefined;

  constructor(path: string, buffers: ReadBuffers) {
    // One for all would do but for readers that keep what they get: each read ends before the next begins.
    let buffer: Buffer | undefined;
    this.socket = connect({
      path,
      onread: {
        buffer: () => (buffer ??= buffers.take()),
        callback: (length, into) => {
          try {
            if (this.reader?.((into as Buffer).subarray(0, length)) === true) buffer = undefined;
          } catch {
            // It says what is not of the protocol.
            this.socket.destroy();
          }
          return true;
        },
      },
    });
    // What it means is told by "close".
    this.socket.on("error", () => {});
    this.socket.once("close", () => {
      if (buffer !== undefined) buffers.give(buffer);
    });
  }
}

/** Less is copied: a buffer is for more. */
const worthKeepingBytes = 16 * 1024;

/** A byte stream's messages, unread, both ways; its end is the OK of the other side. */
class SocketStream extends Duplex {
  readonly socket: Socket;
  readonly metadata: Promise<ReadonlyMap<string, string>>;
  #begin: (metadata: ReadonlyMap<string, string>) => void = () => {};
  readonly #cutter = new MessageCutter();
  readonly #buffers: ReadBuffers;
  /** Chunks that are buffers of theirs. */
  readonly #lent = new Set<Buffer>();

  constructor(connection: Connection, buffers: ReadBuffers, whyLost: WhyLost) {
    super({ allowHalfOpen: true });
    const { socket } = connection;
    this.socket = socket;
    this.#buffers = buffers;
    this.metadata = new Promise((resolve, reject) => {
      this.#begin = resolve;
      this.once("error", reject);
      this.once("end", () => reject(nonsense()));
    });
    this.metadata.catch(() => {});
    connection.reader = (bytes) => this.#received(bytes);
    socket.once("close", () => {
      if (!this.readableEnded && !this.destroyed) void whyLost().then((error) => this.destroy(error));
    });
  }

  /** A chunk that was read is not read any more. Who never says so costs new memory. */
  release(chunk: Buffer): void {
    if (this.#lent.delete(chunk)) this.#buffers.give(chunk);
  }

  #received(bytes: Buffer): boolean {
    let pressed = false;
    let kept = false;
    for (const piece of this.#cutter.pass(bytes)) {
      if ("bytes" in piece) {
        kept = piece.bytes.length === bytes.length && bytes.length >= worthKeepingBytes;
        const chunk = kept ? bytes : Buffer.from(piece.bytes);
        if (kept) this.#lent.add(chunk);
        pressed = !this.push(chunk) || pressed;
      } else if (piece.kind === kinds.metadata) this.#begin(parseMetadata(piece.payload));
      else if (piece.kind === kinds.ended) {
        const error = parseAnswer(piece.payload);
        if (error === undefined) this.push(null);
        else this.destroy(error);
        return false;
      }
    }
    if (pressed) this.socket.pause();
    return kept;
  }

  override _read(): void {
    this.socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.socket.write(chunk, done);
  }

  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.socket.cork();
    const last = chunks.length - 1;
    for (const [index, { chunk }] of chunks.entries()) this.socket.write(chunk, index === last ? done : undefined);
    this.socket.uncork();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.socket.write(message(kinds.done, noBytes), done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.socket.destroy();
    done(error);
  }
}

const noBytes = Buffer.alloc(0);

function nonsense(): AgentError {
  return new AgentError("E_CONNECTION", "its Python process says what is not of the protocol");
}
