import { closeSync } from "node:fs";
import { endianness } from "node:os";
import { loadKoffi, systemError } from "./native.ts";
import { SOCK_DGRAM, SOCK_NONBLOCK, socketCalls } from "./sockets.ts";

const AF_UNIX = 1;
/** Room in struct sockaddr_un: unix(7). */
const longestPathBytes = 108;
const ENAMETOOLONG = 36;

/** Where datagrams go that need no answer: the service manager, the journal. */
export interface DatagramSender {
  /**
   * Never waits, and finds the receiver anew each time, since it may have been started again.
   * @returns 0, or the error's number: EAGAIN (11) when the receiver has as much to read as it may, EMSGSIZE (90)
   */
  send(bytes: Uint8Array): number;
  close(): void;
}

/**
 * Opens a way to a Unix socket of datagrams, which Node has not.
 * @param place an absolute path, or `@` and a name of the abstract namespace
 * @throws AgentError E_UNSUPPORTED without koffi; the system's error for a place that is too long
 */
export async function openDatagramSender(place: string): Promise<DatagramSender> {
  const address = unixAddress(place);
  const koffi = await loadKoffi();
  const sendto = koffi
    .load(null)
    .func("long sendto(int fd, const void *bytes, size_t length, int flags, const void *to, uint32_t toLength)") as (
    ...args: [fd: number, bytes: Uint8Array, length: number, flags: number, to: Uint8Array, toLength: number]
  ) => number;
  const fd = socketCalls(koffi).open(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, `socket for ${place}`);
  let open = true;
  return {
    send: (bytes) => (sendto(fd, bytes, bytes.length, 0, address, address.length) === -1 ? koffi.errno() : 0),
    close() {
      if (open) closeSync(fd);
      open = false;
    },
  };
}

/** struct sockaddr_un. A name of the abstract namespace ends with the address, a path with a zero. */
export function unixAddress(place: string): Buffer {
  const family = endianness() === "LE" ? [AF_UNIX, 0] : [0, AF_UNIX];
  const name = Buffer.from(place.startsWith("@") ? `\0${place.slice(1)}` : `${place}\0`);
  if (name.length > longestPathBytes) throw systemError(ENAMETOOLONG, "address", place);
  return Buffer.concat([Buffer.from(family), name]);
}
