import { closeSync } from "node:fs";
import { isIPv6 } from "node:net";
import { endianness } from "node:os";
import { AgentError } from "../driver/errors.ts";
import { loadKoffi } from "./native.ts";
import { socketCalls, SOCK_DGRAM, SOCK_NONBLOCK } from "./sockets.ts";

/**
 * UDP sockets of Linux that send many packets with one system call. Numbers: asm-generic/socket.h and fcntl.h,
 * linux/udp.h (x86, ARM and RISC-V alike); layouts: those of any little-endian system with pointers of 64 bits.
 */

const [AF_INET, AF_INET6] = [2, 10];
const [IPPROTO_IPV6, IPV6_V6ONLY] = [41, 26];
const [SOL_UDP, UDP_SEGMENT] = [17, 103];

/** The structures of one call, with the offsets of the members that are used. A test compares them with C's. */
export const layout = {
  sockaddrIn: { bytes: 16, family: 0, port: 2, address: 4 },
  sockaddrIn6: { bytes: 28, family: 0, port: 2, address: 8, scopeId: 24 },
  iovec: { bytes: 16, base: 0, length: 8 },
  msghdr: { bytes: 56, name: 0, nameLength: 8, iov: 16, iovLength: 24, control: 32, controlLength: 40 },
  mmsghdr: { bytes: 64 },
  cmsghdr: { bytes: 16, length: 0, level: 8, type: 12 },
} as const;

/** linux/udp.h UDP_MAX_SEGMENTS was 64 until 6.10, and is the largest number of packets of one message. */
const segmentsLimit = 64;
/** The longest UDP payload over IPv4; the packets of one message together may not be longer. */
const messageBytesLimit = 65_507;
/** Messages of one call; a longer run takes several. */
const messagesLimit = 64;

/** How many packets of this size one message may hold. */
export function segmentsPerMessage(strideBytes: number): number {
  return Math.max(1, Math.min(segmentsLimit, Math.floor(messageBytesLimit / strideBytes)));
}

/** Sends runs of packets from one socket to one peer. */
export interface RunSender {
  /**
   * Sends the packets that lie in `packets` one after the other, each of `strideBytes` but perhaps the last. With
   * `segments` above 1 the kernel, or the network card, cuts that many out of one message (UDP_SEGMENT).
   * @returns how many packets were sent, perhaps not all of them; or the error's number, negative, if none was:
   *   EAGAIN when the socket's buffer is full. UDP_SEGMENT is refused with EMSGSIZE or EINVAL for packets above the
   *   interface's MTU, with EIO where the interface computes no checksums, and by kernels before 4.18.
   */
  send(packets: Uint8Array, strideBytes: number, segments: number): number;
}

export interface UdpCalls {
  /**
   * A socket bound to a numeric address, for `dgram`'s `bind({ fd })`; no child inherits it.
   * @param port 0 lets the system choose
   * @returns its descriptor; who asked closes it
   * @throws the system's error
   */
  bind(address: string, port: number): number;
  sender(fd: number, address: string, port: number): RunSender;
}

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded, or the system is another one. */
export async function loadUdp(): Promise<UdpCalls> {
  const koffi = await loadKoffi();
  if (process.platform !== "linux" || endianness() !== "LE" || koffi.sizeof("void *") !== 8) {
    throw new AgentError("E_UNSUPPORTED", "many packets at once are sent on 64-bit Linux only");
  }
  const sockets = socketCalls(koffi);
  const libc = koffi.load(null);
  const sendmmsg = libc.func("int sendmmsg(int fd, void *messages, uint32_t count, int flags)") as (
    ...args: [fd: number, messages: Buffer, count: number, flags: number]
  ) => number;
  const inetPton = libc.func("int inet_pton(int family, const char *text, void *address)") as (
    ...args: [family: number, text: string, address: Buffer]
  ) => number;
  const ifNameToIndex = libc.func("uint32_t if_nametoindex(const char *name)") as (name: string) => number;

  /** @throws TypeError for what is no numeric address. */
  const socketAddress = (text: string, port: number): Buffer => {
    const [address = "", scope] = text.split("%");
    const isV6 = isIPv6(address);
    const at = isV6 ? layout.sockaddrIn6 : layout.sockaddrIn;
    const bytes = Buffer.alloc(at.bytes);
    bytes.writeUInt16LE(isV6 ? AF_INET6 : AF_INET, at.family);
    bytes.writeUInt16BE(port, at.port);
    if (inetPton(isV6 ? AF_INET6 : AF_INET, address, bytes.subarray(at.address)) !== 1) {
      throw new TypeError(`${text} is not a numeric address`);
    }
    // The zone is the interface's name, or its number already.
    if (isV6 && scope !== undefined) {
      bytes.writeUInt32LE(Number(scope) || ifNameToIndex(scope), layout.sockaddrIn6.scopeId);
    }
    return bytes;
  };

  return {
    bind(address, port) {
      const name = socketAddress(address, port);
      const fd = sockets.open(isIPv6(address) ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0, "socket");
      try {
        if (isIPv6(address)) sockets.setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1, "take IPv6 only");
        sockets.bind(fd, name, "bind");
        return fd;
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    },

    sender(fd, address, port) {
      const name = socketAddress(address, port);
      const message = messageBlock(name, (bytes) => koffi.address(bytes));
      return {
        send(packets, strideBytes, segments) {
          const { messages, count } = message.describe(packets, strideBytes, segments);
          const sent = sendmmsg(fd, messages, count, 0);
          if (sent <= 0) return -koffi.errno();
          return Math.min(sent * segments, Math.ceil(packets.length / strideBytes));
        },
      };
    },
  };
}

/** The argument of sendmmsg, written once but for what differs from run to run. */
function messageBlock(name: Buffer, addressOf: (bytes: Uint8Array) => bigint) {
  // Everything that the kernel reads lies in one piece of memory of its own, which the collector does not move.
  const messagesBytes = messagesLimit * layout.mmsghdr.bytes;
  const iovecsAt = messagesBytes;
  const controlAt = iovecsAt + messagesLimit * layout.iovec.bytes;
  /** CMSG_LEN and CMSG_SPACE of the u16 that UDP_SEGMENT takes. */
  const [controlLength, controlSpace] = [layout.cmsghdr.bytes + 2, layout.cmsghdr.bytes + 8];
  const nameAt = controlAt + controlSpace;
  const memory = Buffer.from(new ArrayBuffer(nameAt + name.length));
  const base = addressOf(memory);
  const pointTo = (at: number, offset: number) => memory.writeBigUInt64LE(base + BigInt(offset), at);

  memory.set(name, nameAt);
  memory.writeBigUInt64LE(BigInt(controlLength), controlAt + layout.cmsghdr.length);
  memory.writeInt32LE(SOL_UDP, controlAt + layout.cmsghdr.level);
  memory.writeInt32LE(UDP_SEGMENT, controlAt + layout.cmsghdr.type);
  for (let index = 0; index < messagesLimit; index += 1) {
    const at = index * layout.mmsghdr.bytes;
    pointTo(at + layout.msghdr.name, nameAt);
    memory.writeUInt32LE(name.length, at + layout.msghdr.nameLength);
    pointTo(at + layout.msghdr.iov, iovecsAt + index * layout.iovec.bytes);
    memory.writeBigUInt64LE(1n, at + layout.msghdr.iovLength);
    pointTo(at + layout.msghdr.control, controlAt);
  }

  return {
    describe(packets: Uint8Array, strideBytes: number, segments: number): { messages: Buffer; count: number } {
      memory.writeUInt16LE(strideBytes, controlAt + layout.cmsghdr.bytes);
      const start = addressOf(packets);
      const messageBytes = strideBytes * segments;
      let count = 0;
      for (let offset = 0; offset < packets.length && count < messagesLimit; offset += messageBytes) {
        const length = Math.min(messageBytes, packets.length - offset);
        const iovec = iovecsAt + count * layout.iovec.bytes;
        memory.writeBigUInt64LE(start + BigInt(offset), iovec + layout.iovec.base);
        memory.writeUInt32LE(length, iovec + layout.iovec.length);
        // Without control data it is a plain message.
        const isSegmented = length > strideBytes;
        const at = count * layout.mmsghdr.bytes;
        memory.writeUInt32LE(isSegmented ? controlSpace : 0, at + layout.msghdr.controlLength);
        count += 1;
      }
      return { messages: memory, count };
    },
  };
}
