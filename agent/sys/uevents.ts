import { closeSync, readSync } from "node:fs";
import { isSystemError } from "../driver/errors.ts";
import { loadKoffi } from "./native.ts";
import { watchDescriptor } from "./poll.ts";
import { socketCalls, SOCK_NONBLOCK, SOCK_RAW } from "./sockets.ts";

/** What the kernel tells of devices that come and go. Numbers: linux/netlink.h; layout: struct sockaddr_nl. */

const AF_NETLINK = 16;
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
  const sockets = socketCalls(koffi);
  const fd = sockets.open(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT, "socket of uevents");
  try {
    const address = Buffer.alloc(sockaddrBytes);
    address.writeUInt16LE(AF_NETLINK, 0);
    address.writeUInt32LE(kernelGroup, 8);
    sockets.bind(fd, address, "bind to uevents");
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  const buffer = Buffer.alloc(longestMessageBytes);
  const unwatch = watchDescriptor(koffi, fd, "readable", () => {
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
  return () => {
    unwatch();
    closeSync(fd);
  };
}
