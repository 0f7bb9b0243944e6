import { endianness } from "node:os";
import type { Duplex } from "node:stream";
import { AgentError, isSystemError } from "../driver/errors.ts";
import { dialSocket } from "./stream-socket.ts";

/** Virtual sockets of Linux, between a host and its guests. Numbers: linux/socket.h; layout: linux/vm_sockets.h, on any little-endian system. */

const AF_VSOCK = 40;

/** The address, with the offsets of its members. A test compares them with C's. */
export const vsockLayout = {
  sockaddr_vm: { bytes: 16, svm_family: 0, svm_port: 4, svm_cid: 8 },
} as const;

/** A guest answers at once; one that has no such sockets never does. */
const connectTimeoutMs = 30_000;

/**
 * Opens a stream to a virtual socket whose two directions end on their own.
 * @throws AgentError E_UNSUPPORTED where there are no virtual sockets, E_TIMEOUT, E_CANCELLED; the system's error (ECONNRESET where nobody listens,
 *   ENODEV where there is no such guest)
 */
export async function dialVsock(
  cid: number,
  port: number,
  signal: AbortSignal,
  timeoutMs = connectTimeoutMs,
): Promise<Duplex> {
  if (process.platform !== "linux" || endianness() !== "LE") {
    throw new AgentError("E_UNSUPPORTED", "virtual sockets are used on little-endian Linux only");
  }
  const peer = { family: AF_VSOCK, address: vsockAddress(cid, port), where: `virtual socket ${cid}:${port}` };
  try {
    return await dialSocket(peer, signal, timeoutMs);
  } catch (error) {
    if (!isSystemError(error) || error.code !== "EAFNOSUPPORT") throw error;
    throw new AgentError("E_UNSUPPORTED", "this kernel has no virtual sockets (module vsock)", { cause: error });
  }
}

export function vsockAddress(cid: number, port: number): Buffer {
  const at = vsockLayout.sockaddr_vm;
  const address = Buffer.alloc(at.bytes);
  address.writeUInt16LE(AF_VSOCK, at.svm_family);
  address.writeUInt32LE(port, at.svm_port);
  address.writeUInt32LE(cid, at.svm_cid);
  return address;
}
