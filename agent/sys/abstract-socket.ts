import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { endianness } from "node:os";
import { loadKoffi, systemError } from "./native.ts";
import { SOCK_NONBLOCK, socketCalls } from "./sockets.ts";

const AF_UNIX = 1;
const SOCK_STREAM = 1;

/** Room for a name in struct sockaddr_un, after the zero byte that stands in front of it. */
const mostNameBytes = 107;

/**
 * Connects to a name in Linux' abstract namespace of Unix sockets (unix(7)). Node 20 fills names up with zeros, which are a
 * part of such names, and so reaches nobody.
 * @throws the system's error: ECONNREFUSED if nobody listens; AgentError E_UNSUPPORTED without koffi
 */
export async function connectAbstract(name: string): Promise<Socket> {
  const bytes = Buffer.from(name);
  const what = `connect '@${name}'`;
  if (bytes.length > mostNameBytes) throw systemError(36, what); // ENAMETOOLONG
  const koffi = await loadKoffi();
  const connect = koffi.load(null).func("int connect(int fd, const void *address, uint32_t length)") as (
    ...args: [fd: number, address: Uint8Array, length: number]
  ) => number;
  const fd = socketCalls(koffi).open(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, what);
  const family = endianness() === "LE" ? [AF_UNIX, 0] : [0, AF_UNIX];
  const address = Buffer.concat([Buffer.from([...family, 0]), bytes]);
  if (connect(fd, address, address.length) === -1) {
    const errno = koffi.errno();
    closeSync(fd);
    throw systemError(errno, what);
  }
  const socket = new Socket({ fd, allowHalfOpen: true, readable: true, writable: true });
  // A connection may break between two readers; whoever looks next sees it in `errored`.
  socket.on("error", () => {});
  return socket;
}
