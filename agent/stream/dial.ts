import { once } from "node:events";
import { connect, type Socket, type TcpNetConnectOpts, type IpcNetConnectOpts } from "node:net";
import { AgentError } from "../driver/errors.ts";

/** Longest wait for a connection; TCP alone would try for two minutes. */
export const connectTimeoutMs = 30_000;

/**
 * Node would hold 16 KiB for the kernel before it asks the writer to wait: less than one frame, so that each would be
 * written by itself.
 */
const socketOptions = { allowHalfOpen: true, writableHighWaterMark: 1024 * 1024 };

/**
 * Opens a stream socket whose two directions end on their own: our `end()` sends a FIN, the peer's ends our reading.
 * @param where for error texts, e.g. `host:22`
 * @throws AgentError E_TIMEOUT, E_CANCELLED; the system's error (ECONNREFUSED, ENOENT, …)
 */
export async function dial(
  options: TcpNetConnectOpts | IpcNetConnectOpts,
  where: string,
  signal: AbortSignal,
  timeoutMs = connectTimeoutMs,
): Promise<Socket> {
  signal.throwIfAborted();
  const socket = connect({ ...options, ...socketOptions });
  // A connection may break between two readers; whoever looks next sees it in `errored`.
  socket.on("error", () => {});
  const giveUp = (error: AgentError) => socket.destroy(error);
  const timer = setTimeout(
    () => giveUp(new AgentError("E_TIMEOUT", `no connection to ${where} within ${timeoutMs / 1000} s`)),
    timeoutMs,
  );
  const onAbort = () => giveUp(new AgentError("E_CANCELLED", `connecting to ${where} was cancelled`));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await once(socket, "connect");
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}
