import { closeSync } from "node:fs";
import { Duplex } from "node:stream";
import { AgentError } from "../driver/errors.ts";
import { loadKoffi, systemError, type Koffi } from "./native.ts";
import { watchDescriptor } from "./poll.ts";
import { socketCalls, SOCK_NONBLOCK, SOL_SOCKET } from "./sockets.ts";

/** Connections of families that Node has no classes for. Numbers: asm-generic/socket.h and errno.h, linux/fcntl.h. */

const SOCK_STREAM = 1;
const SO_ERROR = 4;
const SHUT_WR = 1;
const F_DUPFD_CLOEXEC = 1030;
const [EINTR, EAGAIN, EINPROGRESS] = [4, 11, 115];

const readBytes = 64 * 1024;

export interface Peer {
  readonly family: number;
  /** As connect(2) takes it. */
  readonly address: Uint8Array;
  /** For error texts. */
  readonly where: string;
}

/**
 * Opens a stream whose two directions end on their own.
 * @throws AgentError E_UNSUPPORTED where native code cannot be loaded, E_TIMEOUT, E_CANCELLED; the system's error (EAFNOSUPPORT, ECONNREFUSED, …)
 */
export async function dialSocket(peer: Peer, signal: AbortSignal, timeoutMs: number): Promise<Duplex> {
  const koffi = await loadKoffi();
  signal.throwIfAborted();
  const calls = streamCalls(koffi);
  const stream = new SocketStream(koffi, calls, calls.open(peer));
  const timer = setTimeout(() => {
    stream.destroy(new AgentError("E_TIMEOUT", `no connection to ${peer.where} within ${timeoutMs / 1_000} s`));
  }, timeoutMs);
  const onAbort = () => stream.destroy(new AgentError("E_CANCELLED", `connecting to ${peer.where} was cancelled`));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await stream.connect(peer);
    return stream;
  } catch (error) {
    stream.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

type StreamCalls = ReturnType<typeof streamCalls>;

/** None of them waits; errors are negative numbers of the system. */
function streamCalls(koffi: Koffi) {
  const sockets = socketCalls(koffi);
  const libc = koffi.load(null);
  const connect = libc.func("int connect(int fd, const void *address, uint32_t length)") as (
    ...args: [fd: number, address: Uint8Array, length: number]
  ) => number;
  const getsockopt = libc.func("int getsockopt(int fd, int level, int name, void *value, void *length)") as (
    ...args: [fd: number, level: number, name: number, value: Buffer, length: Buffer]
  ) => number;
  const shutdown = libc.func("int shutdown(int fd, int how)") as (fd: number, how: number) => number;
  const fcntl = libc.func("int fcntl(int fd, int command, ...)") as (...args: unknown[]) => number;
  const orErrno = (result: number) => (result === -1 ? -koffi.errno() : result);
  return {
    send: (fd: number, bytes: Uint8Array) => sockets.send(fd, bytes),
    receive: (fd: number, bytes: Uint8Array) => sockets.receive(fd, bytes),
    open: ({ family, where }: Peer) =>
      sockets.open(family, SOCK_STREAM | SOCK_NONBLOCK, 0, `open a socket for ${where}`),
    connect: (fd: number, address: Uint8Array) => orErrno(connect(fd, address, address.length)),
    takeError(fd: number): number {
      const [error, length] = [Buffer.alloc(4), Buffer.alloc(4)];
      length.writeInt32LE(4);
      return getsockopt(fd, SOL_SOCKET, SO_ERROR, error, length) === -1 ? koffi.errno() : error.readInt32LE();
    },
    shutDownWriting: (fd: number) => orErrno(shutdown(fd, SHUT_WR)),
    duplicate(fd: number): number {
      const copy = fcntl(fd, F_DUPFD_CLOEXEC, "int", 0);
      if (copy === -1) throw systemError(koffi.errno(), "fcntl");
      return copy;
    },
  };
}

class SocketStream extends Duplex {
  readonly #koffi: Koffi;
  readonly #calls: StreamCalls;
  readonly #fd: number;
  /** libuv watches a descriptor for one purpose at a time. */
  readonly #writeFd: number;
  #stopReading: (() => void) | undefined;
  #stopWriting: (() => void) | undefined;

  constructor(koffi: Koffi, calls: StreamCalls, fd: number) {
    super({ allowHalfOpen: true, writableHighWaterMark: 1024 * 1024 });
    this.#koffi = koffi;
    this.#calls = calls;
    this.#fd = fd;
    try {
      this.#writeFd = calls.duplicate(fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    // A connection may break between two readers; whoever looks next sees it in `errored`.
    this.on("error", () => {});
  }

  /** @throws the system's error; what the stream is destroyed with meanwhile */
  async connect({ address, where }: Peer): Promise<void> {
    const started = this.#calls.connect(this.#fd, address);
    if (started === 0) return;
    if (started !== -EINPROGRESS) throw systemError(-started, "connect", where);
    const given = await new Promise<Error | undefined>((resolve) => {
      this.once("close", () => resolve(this.errored ?? undefined));
      this.#whenWritable(() => resolve(undefined));
    });
    if (given !== undefined) throw given;
    const error = this.#calls.takeError(this.#writeFd);
    if (error !== 0) throw systemError(error, "connect", where);
  }

  override _read(): void {
    this.#stopReading ??= watchDescriptor(this.#koffi, this.#fd, "readable", () => this.#receive());
  }

  #receive(): void {
    const bytes = Buffer.allocUnsafe(readBytes);
    const count = this.#calls.receive(this.#fd, bytes);
    if (count === -EAGAIN || count === -EINTR) return;
    if (count > 0 && this.push(bytes.subarray(0, count))) return;
    // Full, over or broken: what stays readable would be told over and over.
    this.#stopReading?.();
    this.#stopReading = undefined;
    if (count === 0) this.push(null);
    else if (count < 0) this.destroy(systemError(-count, "recv"));
  }

  override _write(bytes: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    const count = bytes.length === 0 ? 0 : this.#calls.send(this.#writeFd, bytes);
    if (count < 0 && count !== -EAGAIN && count !== -EINTR) return done(systemError(-count, "send"));
    const rest = bytes.subarray(Math.max(0, count));
    if (rest.length === 0) return done();
    this.#whenWritable(() => this._write(rest, _encoding, done));
  }

  override _final(done: (error?: Error | null) => void): void {
    // A peer that has gone already needs no goodbye.
    this.#calls.shutDownWriting(this.#writeFd);
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#stopReading?.();
    this.#stopWriting?.();
    closeSync(this.#fd);
    closeSync(this.#writeFd);
    done(error);
  }

  #whenWritable(then: () => void): void {
    this.#stopWriting = watchDescriptor(this.#koffi, this.#writeFd, "writable", () => {
      this.#stopWriting?.();
      this.#stopWriting = undefined;
      then();
    });
  }
}
