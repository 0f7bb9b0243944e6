import { closeSync } from "node:fs";
import { loadKoffi, systemError } from "./native.ts";
import { socketCalls, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET } from "./sockets.ts";

/** IPv4 UDP sockets that are bound to one network interface, which dgram cannot make. Numbers: asm-generic/socket.h, linux/sockios.h (x86, ARM, RISC-V). */

const AF_INET = 2;
const SO_BROADCAST = 6;
const SO_BINDTODEVICE = 25;
const SIOCGIFADDR = 0x8915;
const SIOCGIFNETMASK = 0x891b;

/** struct sockaddr_in: family (u16, of the host), port and address (of the network), eight bytes of nothing. */
const sockaddrBytes = 16;
/** struct ifreq: 16 bytes of name, then a union of which a sockaddr is the part used here. */
const ifreqBytes = 40;
const nameBytes = 16;

export interface InterfaceUdpOptions {
  readonly device: string;
  /** 0.0.0.0 hears broadcasts, too. */
  readonly address: string;
  readonly port: number;
}

export interface InterfaceUdp {
  /**
   * A socket that hears and sends on this interface only and may broadcast, for `dgram.Socket.bind({ fd })`, which owns it then. Two such sockets
   * on different interfaces may have the same port.
   * @throws the system's error: ENODEV, EADDRINUSE, EACCES (port), EPERM (interface)
   */
  open(options: InterfaceUdpOptions): number;
  /**
   * First IPv4 address of an interface, with or without a carrier. Node's networkInterfaces() knows an interface only while there is
   * one, which on a cable to a board that is off there is not.
   * @throws the system's error: ENODEV, EADDRNOTAVAIL when it has none
   */
  addressOf(device: string): { address: string; netmask: string };
}

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded. */
export async function loadInterfaceUdp(): Promise<InterfaceUdp> {
  const koffi = await loadKoffi();
  const sockets = socketCalls(koffi);
  const ioctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, ...)") as (
    ...args: unknown[]
  ) => number;
  const open = () => sockets.open(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0, "socket");
  return {
    open({ device, address, port }) {
      const fd = open();
      try {
        sockets.setOption(fd, SOL_SOCKET, SO_BINDTODEVICE, Buffer.from(`${device}\0`), `bind to ${device}`);
        sockets.setOption(fd, SOL_SOCKET, SO_BROADCAST, 1, "allow broadcast");
        sockets.bind(fd, sockaddr(address, port), "bind");
        return fd;
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    },
    addressOf(device) {
      const fd = open();
      try {
        const ask = (request: number) => {
          const ifreq = Buffer.alloc(ifreqBytes);
          ifreq.write(device, 0, nameBytes - 1, "latin1");
          const result = ioctl(fd, request, "void *", ifreq);
          if (result === -1) throw systemError(koffi.errno(), "address of interface");
          return ifreq.subarray(nameBytes + 4, nameBytes + 8).join(".");
        };
        return { address: ask(SIOCGIFADDR), netmask: ask(SIOCGIFNETMASK) };
      } finally {
        closeSync(fd);
      }
    },
  };
}

function sockaddr(address: string, port: number): Buffer {
  const bytes = Buffer.alloc(sockaddrBytes);
  bytes.writeUInt16LE(AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  bytes.set(address.split(".").map(Number), 4);
  return bytes;
}
