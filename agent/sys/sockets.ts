import { systemError, type Koffi } from "./native.ts";

/** Sockets of families that Node has no classes for. Numbers: asm-generic/socket.h (x86, ARM and RISC-V alike). */

export const [SOCK_DGRAM, SOCK_RAW, SOCK_NONBLOCK] = [2, 3, 0o4000];
const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;

export interface SocketCalls {
  /**
   * A socket that no child inherits; who asked closes it.
   * @param type perhaps with SOCK_NONBLOCK
   * @throws the system's error: EAFNOSUPPORT or EPROTONOSUPPORT where the kernel has no such sockets
   */
  open(family: number, type: number, protocol: number, what: string): number;
  /** @throws the system's error */
  bind(fd: number, address: Uint8Array, what: string): void;
  /** @param value a number is an `int`. @throws the system's error */
  setOption(fd: number, level: number, name: number, value: number | Uint8Array, what: string): void;
  /** @returns how many bytes, or the error's number, negative */
  send(fd: number, bytes: Uint8Array): number;
  /** @returns how many bytes, or the error's number, negative */
  receive(fd: number, bytes: Uint8Array, flags?: number): number;
}

export function socketCalls(koffi: Koffi): SocketCalls {
  const libc = koffi.load(null);
  const socket = libc.func("int socket(int family, int type, int protocol)") as (...args: number[]) => number;
  const bind = libc.func("int bind(int fd, const void *address, uint32_t length)") as (
    ...args: [fd: number, address: Uint8Array, length: number]
  ) => number;
  const setsockopt = libc.func("int setsockopt(int fd, int level, int name, const void *value, uint32_t length)") as (
    ...args: [fd: number, level: number, name: number, value: Uint8Array, length: number]
  ) => number;
  const send = libc.func("long send(int fd, const void *bytes, size_t length, int flags)") as (
    ...args: [fd: number, bytes: Uint8Array, length: number, flags: number]
  ) => number;
  const recv = libc.func("long recv(int fd, void *bytes, size_t length, int flags)") as (
    ...args: [fd: number, bytes: Uint8Array, length: number, flags: number]
  ) => number;
  const check = (result: number, what: string) => {
    if (result === -1) throw systemError(koffi.errno(), what);
    return result;
  };
  const orErrno = (result: number) => (result === -1 ? -koffi.errno() : result);
  return {
    open: (family, type, protocol, what) => check(socket(family, type | SOCK_CLOEXEC, protocol), what),
    bind: (fd, address, what) => void check(bind(fd, address, address.length), what),
    setOption(fd, level, name, value, what) {
      const bytes = typeof value === "number" ? int32(value) : value;
      check(setsockopt(fd, level, name, bytes, bytes.length), what);
    },
    send: (fd, bytes) => orErrno(send(fd, bytes, bytes.length, 0)),
    receive: (fd, bytes, flags = 0) => orErrno(recv(fd, bytes, bytes.length, flags)),
  };
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}
