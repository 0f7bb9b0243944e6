import { closeSync } from "node:fs";
import { endianness } from "node:os";
import { AgentError } from "../driver/errors.ts";
import { loadKoffi, systemError } from "./native.ts";
import { watchDescriptor } from "./poll.ts";
import { socketCalls, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET } from "./sockets.ts";

/**
 * ISO-TP sockets of Linux (CAN_ISOTP, since 5.10). Numbers: linux/can.h, linux/can/isotp.h; layouts: those of any
 * little-endian system.
 */

const AF_CAN = 29;
const CAN_ISOTP = 6;
const SO_ERROR = 4;
const SOL_CAN_ISOTP = 106;
const [CAN_ISOTP_OPTS, CAN_ISOTP_RECV_FC, CAN_ISOTP_TX_STMIN, CAN_ISOTP_LL_OPTS] = [1, 2, 3, 5];
const CAN_EFF_FLAG = 0x8000_0000;
const [CAN_MTU, CANFD_MTU] = [16, 72];
/** The flag of a CAN FD frame. */
const CANFD_BRS = 1;
const [MSG_PEEK, MSG_TRUNC] = [2, 0x20];
const F_DUPFD_CLOEXEC = 1030;

/** The structures, with the offsets of the members that are used. A test compares them with C's. */
export const isoTpLayout = {
  sockaddr_can: { bytes: 24, can_family: 0, can_ifindex: 4, "can_addr.tp.rx_id": 8, "can_addr.tp.tx_id": 12 },
  can_isotp_options: { bytes: 12, flags: 0, frame_txtime: 4, ext_address: 8, txpad_content: 9, rxpad_content: 10, rx_ext_address: 11 },
  can_isotp_fc_options: { bytes: 3, bs: 0, stmin: 1, wftmax: 2 },
  can_isotp_ll_options: { bytes: 3, mtu: 0, tx_dl: 1, tx_flags: 2 },
} as const; // prettier-ignore

export const isoTpFlags = {
  CAN_ISOTP_LISTEN_MODE: 0x001,
  CAN_ISOTP_EXTEND_ADDR: 0x002,
  CAN_ISOTP_TX_PADDING: 0x004,
  CAN_ISOTP_FORCE_TXSTMIN: 0x080,
  CAN_ISOTP_RX_EXT_ADDR: 0x200,
} as const;

interface CanId {
  readonly id: number;
  /** It has 29 bits. */
  readonly extended: boolean;
}

export interface IsoTpSocketOptions {
  /** Name of the network interface. */
  readonly interfaceName: string;
  readonly tx: CanId;
  readonly rx: CanId;
  /** Byte before the PCI; undefined: none, which must be so for both. */
  readonly txPrefix: number | undefined;
  readonly rxPrefix: number | undefined;
  readonly padding: number | undefined;
  readonly blockSize: number;
  /** As it is on the wire. */
  readonly stmin: number;
  readonly waitLimit: number;
  readonly fd: boolean;
  readonly bitrateSwitch: boolean;
  /** Longest frame that is sent: 8, or a CAN FD length. */
  readonly frameBytes: number;
  readonly listenOnly: boolean;
  /** In place of the receiver's pause between frames. */
  readonly overrideSeparationMs: number | undefined;
}

/** One socket; none of its calls waits. Errors are positive numbers of the system. */
export interface IsoTpSocket {
  /** @returns 0, or an error: EAGAIN while another message is being sent */
  send(message: Uint8Array): number;
  /** @returns a message, or an error: EAGAIN if there is none; ETIMEDOUT, EILSEQ, … if one was broken off */
  receive(): Buffer | number;
  /** The error that was noticed since the last call, by whatever; 0 if there was none. */
  takeError(): number;
  /** Calls back when there is a message or an error to fetch, until the returned function is called. */
  watchReadable(onReady: () => void): () => void;
  /** Calls back when no message is being sent, or there is an error to fetch, until the returned function is called. */
  watchWritable(onReady: (isWritable: boolean) => void): () => void;
  /** Waits for the end of a message that is being sent, as the kernel does. */
  close(): Promise<void>;
}

export interface IsoTpSockets {
  /** @throws the system's error: ENODEV, EPROTONOSUPPORT (no ISO-TP in this kernel), ENETDOWN */
  open(options: IsoTpSocketOptions): IsoTpSocket;
}

/** Longer messages are asked for their length first. */
const usualMessageBytes = 8_192;

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded, or the system is another one. */
export async function loadIsoTp(): Promise<IsoTpSockets> {
  const koffi = await loadKoffi();
  if (process.platform !== "linux" || endianness() !== "LE") {
    throw new AgentError("E_UNSUPPORTED", "ISO-TP sockets are used on little-endian Linux only");
  }
  const sockets = socketCalls(koffi);
  const libc = koffi.load(null);
  const getsockopt = libc.func("int getsockopt(int fd, int level, int name, void *value, void *length)") as (
    ...args: [fd: number, level: number, name: number, value: Buffer, length: Buffer]
  ) => number;
  const fcntl = libc.func("int fcntl(int fd, int command, ...)") as (...args: unknown[]) => number;
  const close = libc.func("int close(int fd)") as { async(fd: number, done: (error: unknown) => void): void };
  const ifNameToIndex = libc.func("uint32_t if_nametoindex(const char *name)") as (name: string) => number;

  return {
    open(options) {
      const index = ifNameToIndex(options.interfaceName);
      if (index === 0) throw systemError(koffi.errno(), "if_nametoindex", options.interfaceName);
      const fd = sockets.open(AF_CAN, SOCK_DGRAM | SOCK_NONBLOCK, CAN_ISOTP, "open an ISO-TP socket");
      let sendFd = -1;
      try {
        for (const [name, value] of socketOptions(options)) {
          sockets.setOption(fd, SOL_CAN_ISOTP, name, value, "set an option of an ISO-TP socket");
        }
        sockets.bind(fd, socketAddress(index, options), `bind to ${options.interfaceName}`);
        // libuv watches a descriptor for one purpose at a time.
        sendFd = fcntl(fd, F_DUPFD_CLOEXEC, "int", 0);
        if (sendFd === -1) throw systemError(koffi.errno(), "fcntl");
      } catch (error) {
        closeSync(fd);
        throw error;
      }

      const usual = Buffer.alloc(usualMessageBytes);
      const errno = Buffer.alloc(4);
      const errnoLength = Buffer.alloc(4);
      return {
        send: (message) => Math.max(0, -sockets.send(sendFd, message)),
        receive() {
          // Before 5.18 it tells no more than it was given room for; messages were at most 8200 bytes then.
          const length = sockets.receive(fd, usual, MSG_PEEK | MSG_TRUNC);
          if (length < 0) return -length;
          const bytes = Buffer.allocUnsafe(Math.max(length, usual.length));
          const received = sockets.receive(fd, bytes);
          return received < 0 ? -received : bytes.subarray(0, received);
        },
        takeError() {
          errnoLength.writeInt32LE(4);
          return getsockopt(fd, SOL_SOCKET, SO_ERROR, errno, errnoLength) === -1 ? koffi.errno() : errno.readInt32LE();
        },
        watchReadable: (onReady) => watchDescriptor(koffi, fd, "readable", () => onReady()),
        watchWritable: (onReady) => watchDescriptor(koffi, sendFd, "writable", (isError) => onReady(!isError)),
        close() {
          closeSync(sendFd);
          return new Promise((resolve) => {
            close.async(fd, () => resolve());
          });
        },
      };
    },
  };
}

/** What must be set before the socket is bound. */
function* socketOptions(options: IsoTpSocketOptions): Generator<[name: number, value: Buffer]> {
  const { padding, txPrefix, rxPrefix, overrideSeparationMs } = options;
  const layout = isoTpLayout;
  const general = Buffer.alloc(layout.can_isotp_options.bytes);
  let flags = options.listenOnly ? isoTpFlags.CAN_ISOTP_LISTEN_MODE : 0;
  if (padding !== undefined) {
    flags |= isoTpFlags.CAN_ISOTP_TX_PADDING;
    general.writeUInt8(padding, layout.can_isotp_options.txpad_content);
  }
  if (txPrefix !== undefined && rxPrefix !== undefined) {
    flags |= isoTpFlags.CAN_ISOTP_EXTEND_ADDR | isoTpFlags.CAN_ISOTP_RX_EXT_ADDR;
    general.writeUInt8(txPrefix, layout.can_isotp_options.ext_address);
    general.writeUInt8(rxPrefix, layout.can_isotp_options.rx_ext_address);
  }
  if (overrideSeparationMs !== undefined) {
    flags |= isoTpFlags.CAN_ISOTP_FORCE_TXSTMIN;
    const nanoseconds = Buffer.alloc(4);
    nanoseconds.writeUInt32LE(Math.min(0xffff_ffff, Math.round(overrideSeparationMs * 1e6)));
    yield [CAN_ISOTP_TX_STMIN, nanoseconds];
  }
  general.writeUInt32LE(flags, layout.can_isotp_options.flags);
  yield [CAN_ISOTP_OPTS, general];
  yield [CAN_ISOTP_RECV_FC, Buffer.from([options.blockSize, options.stmin, Math.min(255, options.waitLimit)])];
  const { fd, bitrateSwitch, frameBytes } = options;
  const linkLayer = [fd ? CANFD_MTU : CAN_MTU, frameBytes, fd && bitrateSwitch ? CANFD_BRS : 0];
  yield [CAN_ISOTP_LL_OPTS, Buffer.from(linkLayer)];
}

function socketAddress(interfaceIndex: number, { rx, tx }: IsoTpSocketOptions): Buffer {
  const layout = isoTpLayout.sockaddr_can;
  const address = Buffer.alloc(layout.bytes);
  const wide = ({ id, extended }: CanId) => (extended ? id + CAN_EFF_FLAG : id);
  address.writeUInt16LE(AF_CAN, layout.can_family);
  address.writeInt32LE(interfaceIndex, layout.can_ifindex);
  address.writeUInt32LE(wide(rx), layout["can_addr.tp.rx_id"]);
  address.writeUInt32LE(wide(tx), layout["can_addr.tp.tx_id"]);
  return address;
}
