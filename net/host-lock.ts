import { once } from "node:events";
import { createServer } from "node:net";
import { isSystemError } from "../agent/driver/errors.ts";

/** Size of sun_path in linux/un.h, less its leading zero. A full name is the same name for every version of Node. */
const nameBytes = 107;

/**
 * Keeps a name for this process. The lock is an abstract unix socket: it lives in the network namespace, and the kernel
 * frees it with the process, however that ends.
 * @param name at most 90 bytes
 * @returns a function that gives it back; undefined while another one has it
 */
export async function lockOnHost(name: string): Promise<(() => Promise<void>) | undefined> {
  const server = createServer((socket) => socket.destroy());
  const listening = once(server, "listening");
  server.listen({ path: `\0jumpstarter ${name} `.padEnd(nameBytes + 1, "-") });
  try {
    await listening;
  } catch (error) {
    if (isSystemError(error) && error.code === "EADDRINUSE") return undefined;
    throw error;
  }
  server.unref();
  return async () => {
    server.close();
    await once(server, "close");
  };
}
