import { closeSync } from "node:fs";
import { readCanLink, writeCanLinkChange, ifinfomsg, type CanLink, type CanLinkChange } from "./can-link.ts";
import { loadKoffi, systemError } from "./native.ts";
import { readAttributes, readMessages, textOf, writeMessage } from "./netlink-messages.ts";
import { socketCalls, SOCK_RAW, SOL_SOCKET } from "./sockets.ts";

/** Asks the kernel for its CAN interfaces and changes them. Numbers: linux/netlink.h, linux/rtnetlink.h. */

const AF_NETLINK = 16;
const NETLINK_ROUTE = 0;
const [SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK] = [270, 10, 11];
const SO_RCVTIMEO = 20;
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
  const sockets = socketCalls(await loadKoffi());

  /** The kernel answers while it is asked, so nothing here waits; the time limit is for what cannot happen. */
  const ask = (type: number, flags: number, body: Buffer, what: string): Buffer[] => {
    const fd = sockets.open(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, "open a netlink socket");
    try {
      // Since Linux 4.12; without them errors have less words.
      sockets.setOption(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1, "have short errors");
      sockets.setOption(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1, "have errors in words");
      const oneSecond = Buffer.alloc(16);
      oneSecond.writeBigInt64LE(1n, 0);
      sockets.setOption(fd, SOL_SOCKET, SO_RCVTIMEO, oneSecond, "limit the wait");
      const sent = sockets.send(fd, writeMessage(type, NLM_F_REQUEST | flags, 1, body));
      if (sent < 0) throw systemError(-sent, what);
      const answers: Buffer[] = [];
      const buffer = Buffer.alloc(datagramBytes);
      for (;;) {
        const length = sockets.receive(fd, buffer);
        if (length <= 0) throw systemError(-length, what);
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
