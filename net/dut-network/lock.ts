import { once } from "node:events";
import { createServer } from "node:net";
import { DeviceOffline, isSystemError } from "../../agent/driver/errors.ts";

/** Size of sun_path in linux/un.h, less its leading zero. A full name is the same name for every version of Node. */
const nameBytes = 107;

/**
 * Keeps an interface for this process. The lock is an abstract unix socket: it lives in the interface's own network
 * namespace, and the kernel frees it with the process, however that ends.
 * @returns a function that gives it back. @throws DeviceOffline while another one has it
 */
export async function lockInterface(name: string): Promise<() => Promise<void>> {
  const server = createServer((socket) => socket.destroy());
  const listening = once(server, "listening");
  server.listen({ path: `\0jumpstarter dut-network ${name} `.padEnd(nameBytes + 1, "-") });
  try {
    await listening;
  } catch (error) {
    if (!isSystemError(error) || error.code !== "EADDRINUSE") throw error;
    throw new DeviceOffline(`${name} is in use by another DUT network on this host`);
  }
  server.unref();
  return async () => {
    server.close();
    await once(server, "close");
  };
}
