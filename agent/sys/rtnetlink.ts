import { closeSync } from "node:fs";
import { readCanLink, writeCanLinkChange, ifinfomsg, type CanLink, type CanLinkChange } from "./can-link.ts";
import { loadKoffi, systemError } from "./native.ts";
import { readAttributes, readMessages, textOf, writeMessage } from "./netlink-messages.ts";

/** Asks the kernel for its CAN interfaces and changes them. Numbers: linux/netlink.h, linux/rtnetlink.h. */

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_ROUTE = 0;
const [SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK] = [270, 10, 11];
const [SOL_SOCKET, SO_RCVTIMEO] = [1, 20];
const [RTM_NEWLINK, RTM_GETLINK] = [16, 18];
const [NLMSG_ERROR, NLMSG_DONE] = [2, 3];
const [NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP] = [0x1, 0x4, 0x300];
const NLMSGERR_ATTR_MSG = 1;
/** NLMSG_ERROR: the error (i32, negative) and the header of what it answers. */
const errorBytes = 4 + 16;
/** The kernel fills a datagram of a dump up to 32 KiB. */
const datagramBytes = 1 << 16;

export interface CanLinks {
  /** All CAN interfaces. @throws the system's error */
  list(): CanLink[];
  /** @throws the system's error, with the kernel's own words where it has some: EPERM, ENODEV, EBUSY (is up), EINVAL, EOPNOTSUPP */
  change(index: number, change: CanLinkChange): void;
}

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded. */
export async function loadCanLinks(): Promise<CanLinks> {
  const koffi = await loadKoffi();
  const libc = koffi.load(null);
  const socket = libc.func("int socket(int domain, int type, int protocol)") as (...args: number[]) => number;
  const setsockopt = libc.func("int setsockopt(int fd, int level, int name, const void *value, uint32_t length)") as (
    ...args: [fd: number, level: number, name: number, value: Buffer, length: number]
  ) => number;
  const send = libc.func("long send(int fd, const void *bytes, size_t length, int flags)") as (
    ...args: [fd: number, bytes: Buffer, length: number, flags: number]
  ) => number;
  const recv = libc.func("long recv(int fd, void *bytes, size_t length, int flags)") as (
    ...args: [fd: number, bytes: Buffer, length: number, flags: number]
  ) => number;

  /** The kernel answers while it is asked, so nothing here waits; the time limit is for what cannot happen. */
  const ask = (type: number, flags: number, body: Buffer, what: string): Buffer[] => {
    const fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd === -1) throw systemError(koffi.errno(), "open a netlink socket");
    try {
      const one = Buffer.from([1, 0, 0, 0]);
      // Both are younger than netlink; without them errors have less words.
      setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, one, one.length);
      setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, one, one.length);
      const oneSecond = Buffer.alloc(16);
      oneSecond.writeBigInt64LE(1n, 0);
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, oneSecond, oneSecond.length);
      const request = writeMessage(type, NLM_F_REQUEST | flags, 1, body);
      if (send(fd, request, request.length, 0) === -1) throw systemError(koffi.errno(), what);
      const answers: Buffer[] = [];
      const buffer = Buffer.alloc(datagramBytes);
      for (;;) {
        const length = recv(fd, buffer, buffer.length, 0);
        if (length <= 0) throw systemError(koffi.errno(), what);
        for (const message of readMessages(Buffer.from(buffer.subarray(0, length)))) {
          if (message.type === NLMSG_DONE) return answers;
          if (message.type === NLMSG_ERROR) {
            const error = readError(message.body);
            if (error.errno === 0) return answers;
            throw systemError(error.errno, error.text === undefined ? what : `${what} (${error.text})`);
          }
          answers.push(message.body);
        }
      }
    } finally {
      closeSync(fd);
    }
  };

  return {
    list() {
      const links = ask(RTM_GETLINK, NLM_F_DUMP, Buffer.alloc(ifinfomsg.bytes), "list network interfaces");
      return links.map(readCanLink).filter((link) => link !== undefined);
    },
    change(index, change) {
      ask(RTM_NEWLINK, NLM_F_ACK, writeCanLinkChange(index, change), "change a CAN interface");
    },
  };
}

/** @returns errno 0 for an acknowledgement */
export function readError(body: Buffer): { errno: number; text: string | undefined } {
  if (body.length < 4) return { errno: 0, text: undefined };
  return {
    errno: -body.readInt32LE(0),
    // NETLINK_CAP_ACK leaves out the body of what is answered, so attributes follow its header.
    text: textOf(readAttributes(body.subarray(errorBytes)).get(NLMSGERR_ATTR_MSG)),
  };
}
