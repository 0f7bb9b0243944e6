import { closeSync } from "node:fs";
import { endianness } from "node:os";
import { Duplex } from "node:stream";
import { AgentError } from "../driver/errors.ts";
import { loadKoffi, systemError, type Koffi } from "./native.ts";
import { watchDescriptor } from "./poll.ts";
import { socketCalls, SOCK_NONBLOCK, SOL_SOCKET } from "./sockets.ts";

/** Virtual sockets of Linux, between a host and its guests. Numbers: linux/socket.h, asm-generic/socket.h, linux/vm_sockets.h. */

const AF_VSOCK = 40;
const SOCK_STREAM = 1;
const SO_ERROR = 4;
const SHUT_WR = 1;
const F_DUPFD_CLOEXEC = 1030;
const [EAGAIN, EINTR, EINPROGRESS] = [11, 4, 115];

/** The address, with the offsets of its members. A test compares them with C's. */
export const vsockLayout = {
  sockaddr_vm: { bytes: 16, svm_family: 0, svm_port: 4, svm_cid: 8 },
} as const;

/** A guest answers at once; one that has no such sockets never does. */
const connectTimeoutMs = 30_000;
const readBytes = 64 * 1024;

/**
 * Opens a stream whose two directions end on their own.
 * @throws AgentError E_UNSUPPORTED where there are no virtual sockets, E_TIMEOUT, E_CANCELLED; the system's error (ECONNRESET where nobody listens, ENODEV
 *   where there is no such guest)
 */
export async function dialVsock(
  cid: number,
  port: number,
  signal: AbortSignal,
  timeoutMs = connectTimeoutMs,
): Promise<Duplex> {
  const koffi = await loadKoffi();
  if (process.platform !== "linux" || endianness() !== "LE") {
    throw new AgentError("E_UNSUPPORTED", "virtual sockets are used on little-endian Linux only");
  }
  signal.throwIfAborted();
  const calls = vsockCalls(koffi);
  const stream = new VsockStream(koffi, calls, calls.open());
  const where = `virtual socket ${cid}:${port}`;
  const timer = setTimeout(() => {
    stream.destroy(new AgentError("E_TIMEOUT", `no connection to ${where} within ${timeoutMs / 1_000} s`));
  }, timeoutMs);
  const onAbort = () => stream.destroy(new AgentError("E_CANCELLED", `connecting to ${where} was cancelled`));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await stream.connect(vsockAddress(cid, port), where);
    return stream;
  } catch (error) {
    stream.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

export function vsockAddress(cid: number, port: number): Buffer {
  const at = vsockLayout.sockaddr_vm;
  const address = Buffer.alloc(at.bytes);
  address.writeUInt16LE(AF_VSOCK, at.svm_family);
  address.writeUInt32LE(port, at.svm_port);
  address.writeUInt32LE(cid, at.svm_cid);
  return address;
}

type VsockCalls = ReturnType<typeof vsockCalls>;

/** None of them waits; errors are negative numbers of the system. */
function vsockCalls(koffi: Koffi) {
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
    open(): number {
      try {
        return sockets.open(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0, "open a virtual socket");
      } catch (error) {
        if ((error as { code?: unknown }).code !== "EAFNOSUPPORT") throw error;
        throw new AgentError("E_UNSUPPORTED", "this kernel has no virtual sockets (module vsock)", { cause: error });
      }
    },
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

/** Node has no class for sockets of this family. */
class VsockStream extends Duplex {
  readonly #koffi: Koffi;
  readonly #calls: VsockCalls;
  readonly #fd: number;
  /** libuv watches a descriptor for one purpose at a time. */
  readonly #writeFd: number;
  #stopReading: (() => void) | undefined;
  #stopWriting: (() => void) | undefined;

  constructor(koffi: Koffi, calls: VsockCalls, fd: number) {
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
  async connect(address: Buffer, where: string): Promise<void> {
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
