import { closeSync, readSync } from "node:fs";
import { isSystemError } from "../driver/errors.ts";
import { loadKoffi, systemError } from "./native.ts";

/** What the kernel tells of devices that come and go. Numbers: linux/netlink.h, asm-generic/socket.h; layout: struct sockaddr_nl. */

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const NETLINK_KOBJECT_UEVENT = 15;
/** The kernel's own messages; udev sends its own to group 2. */
const kernelGroup = 1;
const sockaddrBytes = 12;
/** lib/kobject_uevent.c UEVENT_BUFFER_SIZE is 2048, and the header comes before it. */
const longestMessageBytes = 8192;

export interface Uevent {
  readonly action: string;
  /** Below /sys. */
  readonly path: string;
  readonly subsystem: string | undefined;
}

/** @returns undefined for what is not a message of the kernel. */
export function parseUevent(message: Buffer): Uevent | undefined {
  const [head = "", ...fields] = message.toString("latin1").split("\0");
  const at = head.indexOf("@");
  if (at <= 0) return undefined;
  const subsystem = fields.find((field) => field.startsWith("SUBSYSTEM="))?.slice("SUBSYSTEM=".length);
  return { action: head.slice(0, at), path: head.slice(at + 1), subsystem };
}

/**
 * Calls back for everything that is plugged in or out, until the returned function is called. Keeps no process alive.
 * @throws AgentError E_UNSUPPORTED where native code cannot be loaded; the system's error where such sockets are forbidden
 */
export async function watchUevents(onEvent: (event: Uevent) => void): Promise<() => void> {
  const koffi = await loadKoffi();
  const libc = koffi.load(null);
  const socket = libc.func("int socket(int domain, int type, int protocol)") as (...args: number[]) => number;
  const bind = libc.func("int bind(int fd, const void *address, unsigned int size)") as (
    ...args: [fd: number, address: Buffer, size: number]
  ) => number;
  const fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
  if (fd === -1) throw systemError(koffi.errno(), "socket of uevents");
  const address = Buffer.alloc(sockaddrBytes);
  address.writeUInt16LE(AF_NETLINK, 0);
  address.writeUInt32LE(kernelGroup, 8);
  if (bind(fd, address, address.length) === -1) {
    const error = systemError(koffi.errno(), "bind to uevents");
    closeSync(fd);
    throw error;
  }
  const buffer = Buffer.alloc(longestMessageBytes);
  const poll = koffi.node.poll(fd, { readable: true }, () => {
    for (;;) {
      let length: number;
      try {
        length = readSync(fd, buffer);
      } catch (error) {
        // ENOBUFS: some were lost, so something has changed.
        if (isSystemError(error) && error.code === "ENOBUFS")
          onEvent({ action: "lost", path: "", subsystem: undefined });
        return;
      }
      const event = parseUevent(buffer.subarray(0, length));
      if (event !== undefined) onEvent(event);
    }
  });
  poll.unref();
  return () => {
    poll.close();
    closeSync(fd);
  };
}
