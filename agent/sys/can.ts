import { closeSync } from "node:fs";
import { endianness } from "node:os";
import { AgentError } from "../driver/errors.ts";
import { loadKoffi } from "./native.ts";
import { watchDescriptor } from "./poll.ts";
import { socketCalls, SOCK_NONBLOCK, SOCK_RAW, SOL_SOCKET } from "./sockets.ts";

/**
 * Raw CAN sockets of Linux. Numbers: linux/can.h, linux/can/raw.h, asm-generic/socket.h (x86, ARM and RISC-V alike); layouts: those of any
 * little-endian system with pointers of 64 bits.
 */

const AF_CAN = 29;
const CAN_RAW = 1;
const SOL_CAN_RAW = 101;
const [CAN_RAW_FILTER, CAN_RAW_ERR_FILTER, CAN_RAW_LOOPBACK, CAN_RAW_RECV_OWN_MSGS, CAN_RAW_FD_FRAMES] = [
  1, 2, 3, 4, 5,
];
const [SO_RCVBUF, SO_RCVBUFFORCE, SO_RXQ_OVFL, SO_TIMESTAMPNS] = [8, 33, 40, 35];
/** Of a received message: it was made on this host. */
const MSG_DONTROUTE = 4;
const EAGAIN = 11;
const allErrors = 0x1fff_ffff;

/** The structures of the calls, with the offsets of the members that are used. A test compares them with C's. */
export const canLayout = {
  sockaddr_can: { bytes: 24, can_family: 0, can_ifindex: 4 },
  iovec: { bytes: 16, iov_base: 0, iov_len: 8 },
  msghdr: { bytes: 56, msg_iov: 16, msg_iovlen: 24, msg_control: 32, msg_controllen: 40, msg_flags: 48 },
  mmsghdr: { bytes: 64, msg_len: 56 },
  cmsghdr: { bytes: 16, cmsg_len: 0, cmsg_level: 8, cmsg_type: 12 },
  timespec: { bytes: 16, tv_sec: 0, tv_nsec: 8 },
} as const;

/** Frames of one system call. */
const batchFrames = 64;
/** And of one turn. */
const batchesLimit = 8;
/** struct canfd_frame, the longest that the socket is asked for. */
const frameBytes = 72;
/** Room for a time stamp (16 + 16 bytes) and a counter (16 + 4, up to the next 8). */
const controlBytes = 32 + 24;
/**
 * What the kernel may hold until it is fetched; it doubles this, and caps it at net.core.rmem_max for whom lacks CAP_NET_ADMIN. A frame takes
 * about 800 bytes of it, so 500 frames where the cap was left at 212,992: 60 ms of a full bus at 1 Mbit/s.
 */
const receiveBufferBytes = 4 << 20;

export interface CanSocket {
  /**
   * Hands over what has come, oldest first, or the first hundreds of it. The bytes are the socket's own, and the next frame lies where this one was.
   * @returns 0, or an error's number, negative: ENETDOWN, ENODEV
   */
  receive(onFrame: (bytes: Buffer, timestampS: number, sentHere: boolean) => void): number;
  /** Calls back when there is something to receive, or an error. */
  watch(onReady: () => void): void;
  /** @returns 0, or the error's number, negative: EAGAIN, ENOBUFS, ENETDOWN, ENXIO, EINVAL for FD frames where there is no FD */
  send(bytes: Uint8Array): number;
  /** @param filters bytes of struct can_filter. @throws the system's error */
  setFilters(filters: Uint8Array): void;
  /** Frames that the kernel threw away, as nobody fetched them in time. */
  readonly lostFrames: number;
  close(): void;
}

export interface CanSocketOptions {
  readonly interfaceIndex: number;
  readonly fd: boolean;
  /** Other sockets of this host hear what this one sends. */
  readonly loopback: boolean;
  readonly receiveOwn: boolean;
}

export interface CanSockets {
  /** @throws the system's error: EAFNOSUPPORT (no CAN in this kernel), ENODEV */
  open(options: CanSocketOptions): CanSocket;
}

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded, or the system is another one. */
export async function loadCan(): Promise<CanSockets> {
  const koffi = await loadKoffi();
  if (process.platform !== "linux" || endianness() !== "LE" || koffi.sizeof("void *") !== 8) {
    throw new AgentError("E_UNSUPPORTED", "CAN sockets are used on 64-bit Linux only");
  }
  const sockets = socketCalls(koffi);
  const libc = koffi.load(null);
  const recvmmsg = libc.func("int recvmmsg(int fd, void *messages, uint32_t count, int flags, void *timeout)") as (
    ...args: [fd: number, messages: Buffer, count: number, flags: number, timeout: null]
  ) => number;

  return {
    open({ interfaceIndex, fd: isFd, loopback, receiveOwn }) {
      const fd = sockets.open(AF_CAN, SOCK_RAW | SOCK_NONBLOCK, CAN_RAW, "open a CAN socket");
      const set = (level: number, name: number, value: number | Uint8Array, what: string) =>
        sockets.setOption(fd, level, name, value, what);
      try {
        set(SOL_CAN_RAW, CAN_RAW_LOOPBACK, loopback ? 1 : 0, "set loopback");
        set(SOL_CAN_RAW, CAN_RAW_RECV_OWN_MSGS, receiveOwn ? 1 : 0, "receive own frames");
        if (isFd) set(SOL_CAN_RAW, CAN_RAW_FD_FRAMES, 1, "receive FD frames");
        set(SOL_CAN_RAW, CAN_RAW_ERR_FILTER, allErrors, "receive error frames");
        set(SOL_SOCKET, SO_TIMESTAMPNS, 1, "have time stamps");
        set(SOL_SOCKET, SO_RXQ_OVFL, 1, "count lost frames");
        try {
          set(SOL_SOCKET, SO_RCVBUFFORCE, receiveBufferBytes, "have a larger buffer than others");
        } catch {
          set(SOL_SOCKET, SO_RCVBUF, receiveBufferBytes, "have a larger buffer");
        }
        const address = Buffer.alloc(canLayout.sockaddr_can.bytes);
        address.writeUInt16LE(AF_CAN, canLayout.sockaddr_can.can_family);
        address.writeInt32LE(interfaceIndex, canLayout.sockaddr_can.can_ifindex);
        sockets.bind(fd, address, "bind to the interface");
      } catch (error) {
        closeSync(fd);
        throw error;
      }
      const batch = receiveBatch((bytes) => koffi.address(bytes));
      let unwatch = () => {};
      let closed = false;
      return {
        receive(onFrame) {
          // A flood must leave the rest of the process its turn; the watcher calls again.
          for (let batches = 0; batches < batchesLimit && !closed; batches += 1) {
            const count = recvmmsg(fd, batch.arm(), batchFrames, 0, null);
            if (count === -1) {
              const errno = koffi.errno();
              return errno === EAGAIN ? 0 : -errno;
            }
            for (let index = 0; index < count && !closed; index += 1) batch.take(index, onFrame);
            if (count < batchFrames) return 0;
          }
          return 0;
        },
        watch(onReady) {
          unwatch();
          unwatch = watchDescriptor(koffi, fd, "readable", () => onReady());
        },
        send: (bytes) => Math.min(0, sockets.send(fd, bytes)),
        setFilters: (filters) => set(SOL_CAN_RAW, CAN_RAW_FILTER, filters, "set filters"),
        get lostFrames() {
          return batch.lostFrames;
        },
        close() {
          if (closed) return;
          closed = true;
          unwatch();
          closeSync(fd);
        },
      };
    },
  };
}

/** The argument of recvmmsg: messages, their iovecs, frames and control data in one piece of memory that the collector does not move. */
function receiveBatch(addressOf: (bytes: Uint8Array) => bigint) {
  const { mmsghdr, msghdr, iovec } = canLayout;
  const iovecsAt = batchFrames * mmsghdr.bytes;
  const framesAt = iovecsAt + batchFrames * iovec.bytes;
  const controlsAt = framesAt + batchFrames * frameBytes;
  const memory = Buffer.from(new ArrayBuffer(controlsAt + batchFrames * controlBytes));
  const base = addressOf(memory);
  const pointTo = (at: number, offset: number) => memory.writeBigUInt64LE(base + BigInt(offset), at);
  for (let index = 0; index < batchFrames; index += 1) {
    const at = index * mmsghdr.bytes;
    pointTo(at + msghdr.msg_iov, iovecsAt + index * iovec.bytes);
    memory.writeBigUInt64LE(1n, at + msghdr.msg_iovlen);
    pointTo(at + msghdr.msg_control, controlsAt + index * controlBytes);
    pointTo(iovecsAt + index * iovec.bytes + iovec.iov_base, framesAt + index * frameBytes);
    memory.writeBigUInt64LE(BigInt(frameBytes), iovecsAt + index * iovec.bytes + iovec.iov_len);
  }
  let lostFrames = 0;
  return {
    get lostFrames() {
      return lostFrames;
    },
    /** The kernel has written how long the control data was. */
    arm(): Buffer {
      for (let index = 0; index < batchFrames; index += 1) {
        memory.writeUInt32LE(controlBytes, index * mmsghdr.bytes + msghdr.msg_controllen);
      }
      return memory;
    },
    take(index: number, onFrame: (bytes: Buffer, timestampS: number, sentHere: boolean) => void): void {
      const at = index * mmsghdr.bytes;
      const length = Math.min(memory.readUInt32LE(at + mmsghdr.msg_len), frameBytes);
      const control = controlsAt + index * controlBytes;
      const controlLength = Math.min(memory.readUInt32LE(at + msghdr.msg_controllen), controlBytes);
      const { timestampS, lost } = readControl(memory.subarray(control, control + controlLength));
      if (lost !== undefined) lostFrames = lost;
      const frame = framesAt + index * frameBytes;
      const sentHere = (memory.readUInt32LE(at + msghdr.msg_flags) & MSG_DONTROUTE) !== 0;
      onFrame(memory.subarray(frame, frame + length), timestampS ?? Date.now() / 1000, sentHere);
    },
  };
}

/** What comes beside a frame. Tolerates anything. */
export function readControl(control: Buffer): { timestampS: number | undefined; lost: number | undefined } {
  const { cmsghdr, timespec } = canLayout;
  let timestampS: number | undefined;
  let lost: number | undefined;
  for (let at = 0; at + cmsghdr.bytes <= control.length;) {
    const length = control.readUInt32LE(at + cmsghdr.cmsg_len);
    const data = at + cmsghdr.bytes;
    if (length < cmsghdr.bytes || at + length > control.length) break;
    const type =
      control.readInt32LE(at + cmsghdr.cmsg_level) === SOL_SOCKET ? control.readInt32LE(at + cmsghdr.cmsg_type) : 0;
    if (type === SO_TIMESTAMPNS && length >= cmsghdr.bytes + timespec.bytes) {
      // Whole microseconds are all that a double of today's seconds tells apart.
      timestampS =
        Number(control.readBigInt64LE(data + timespec.tv_sec)) + control.readUInt32LE(data + timespec.tv_nsec) / 1e9;
    } else if (type === SO_RXQ_OVFL && length >= cmsghdr.bytes + 4) {
      lost = control.readUInt32LE(data);
    }
    at += Math.ceil(length / 8) * 8;
  }
  return { timestampS, lost };
}
