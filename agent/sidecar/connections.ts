import { connect, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { AgentError } from "../driver/errors.ts";
import type { BridgedStream } from "../driver/bridge.ts";
import type { Cancellable } from "../driver/driver.ts";
import { kinds, message, parseAnswer, parseMetadata, MessageCutter } from "./protocol.ts";

/** Connections that wait for the next call; more are closed. */
const keptIdle = 32;

/** Tells why a connection ended in the middle of a call. */
export type WhyLost = () => Promise<AgentError>;

/**
 * The connections to the drivers of one session. Each carries one call at a time: a caller that gives up hangs up, which
 * cancels the call there, and a slow one holds up nobody else.
 */
export class Connections {
  readonly #path: string;
  readonly #whyLost: WhyLost;
  readonly #idle: Socket[] = [];
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
    const socket = this.#take();
    return await new Promise((resolve, reject) => {
      const settle = (then: () => void, reusable: boolean) => {
        signal.removeEventListener("abort", hangUp);
        socket.removeAllListeners("data").off("close", lost);
        if (reusable) this.#keep(socket);
        else socket.destroy();
        then();
      };
      const hangUp = () => settle(() => reject(signal.reason as Error), false);
      const lost = () => settle(() => void this.#whyLost().then(reject), false);
      const cutter = new MessageCutter();
      socket.on("data", (chunk: Buffer) => {
        for (const { kind, payload } of cutter.cut(chunk)) {
          if (kind === kinds.message) settle(() => resolve(payload), true);
          else if (kind === kinds.ended) settle(() => reject(parseAnswer(payload) ?? nonsense()), true);
          else settle(() => reject(nonsense()), false);
          return;
        }
      });
      socket.once("close", lost);
      signal.addEventListener("abort", hangUp, { once: true });
      socket.write(message(kinds.unary, request));
    });
  }

  /** Leaving the loop early cancels the call. @throws like `unary` */
  async *streaming(request: Uint8Array, caller: Cancellable): AsyncGenerator<Uint8Array, void, undefined> {
    const { signal } = caller;
    signal.throwIfAborted();
    const socket = this.#take();
    const hangUp = () => socket.destroy(signal.reason as Error);
    signal.addEventListener("abort", hangUp, { once: true });
    try {
      socket.write(message(kinds.streaming, request));
      const cutter = new MessageCutter();
      for await (const chunk of socket) {
        for (const { kind, payload } of cutter.cut(chunk as Buffer)) {
          if (kind === kinds.message) yield payload;
          else {
            const error = parseAnswer(payload);
            if (error !== undefined) throw error;
            return;
          }
        }
      }
      throw await this.#whyLost();
    } finally {
      signal.removeEventListener("abort", hangUp);
      socket.destroy();
    }
  }

  /** @throws like `unary`, before the stream begins */
  async stream(request: object, caller: Cancellable): Promise<BridgedStream> {
    caller.signal.throwIfAborted();
    const stream = new SocketStream(this.#take(), this.#whyLost);
    stream.once("close", () => this.#open.delete(stream.socket));
    const hangUp = () => stream.destroy(caller.signal.reason as Error);
    caller.signal.addEventListener("abort", hangUp, { once: true });
    stream.once("close", () => caller.signal.removeEventListener("abort", hangUp));
    stream.socket.write(message(kinds.stream, Buffer.from(JSON.stringify(request))));
    return { stream, metadata: await stream.metadata };
  }

  /** Hangs up everywhere. */
  close(): void {
    for (const socket of this.#open) socket.destroy();
  }

  #take(): Socket {
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    const socket = connect({ path: this.#path });
    // What it means is told by "close".
    socket.on("error", () => {});
    this.#open.add(socket);
    socket.once("close", () => {
      this.#open.delete(socket);
      const at = this.#idle.indexOf(socket);
      if (at >= 0) this.#idle.splice(at, 1);
    });
    return socket;
  }

  #keep(socket: Socket): void {
    if (socket.destroyed || this.#idle.length >= keptIdle) socket.destroy();
    else this.#idle.push(socket);
  }
}

/** A byte stream's messages, unread, both ways; its end is the OK of the other side. */
class SocketStream extends Duplex {
  readonly socket: Socket;
  readonly metadata: Promise<ReadonlyMap<string, string>>;
  #begin: (metadata: ReadonlyMap<string, string>) => void = () => {};
  readonly #cutter = new MessageCutter();

  constructor(socket: Socket, whyLost: WhyLost) {
    super({ allowHalfOpen: true });
    this.socket = socket;
    this.metadata = new Promise((resolve, reject) => {
      this.#begin = resolve;
      this.once("error", reject);
      this.once("end", () => reject(nonsense()));
    });
    this.metadata.catch(() => {});
    socket.on("data", (chunk: Buffer) => this.#received(chunk));
    socket.once("close", () => {
      if (!this.readableEnded && !this.destroyed) void whyLost().then((error) => this.destroy(error));
    });
  }

  #received(chunk: Buffer): void {
    let pressed = false;
    for (const piece of this.#cutter.pass(chunk)) {
      if ("bytes" in piece) pressed = !this.push(piece.bytes) || pressed;
      else if (piece.kind === kinds.metadata) this.#begin(parseMetadata(piece.payload));
      else if (piece.kind === kinds.ended) {
        const error = parseAnswer(piece.payload);
        if (error === undefined) this.push(null);
        else this.destroy(error);
        return;
      }
    }
    if (pressed) this.socket.pause();
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
