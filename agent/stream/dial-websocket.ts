import { Duplex } from "node:stream";
import WebSocket, { type RawData } from "ws";
import { AgentError } from "../driver/errors.ts";
import { connectTimeoutMs } from "./dial.ts";

/** A peer that leaves a ping unanswered until the next one is due has gone. */
const pingEveryMs = 20_000;

/** Close codes that say "I am done" (RFC 6455 §7.4.1); 1005 is a close frame without any code. */
const orderly = new Set([1000, 1001, 1005]);

/**
 * Opens a WebSocket as a stream of messages.
 * @param where for error texts: holds no secret of the URL
 * @param maxPayload bytes; a longer message of the peer ends the stream
 * @throws AgentError E_CANCELLED; the error of the connection or of the server's answer
 */
export async function dialWebSocket(
  url: string,
  where: string,
  maxPayload: number,
  signal: AbortSignal,
): Promise<Duplex> {
  signal.throwIfAborted();
  const socket = new WebSocket(url, { maxPayload, perMessageDeflate: false, handshakeTimeout: connectTimeoutMs });
  // The stream listens from the start: the first message may come together with the server's answer.
  const stream = messages(socket);
  const onAbort = () => stream.destroy(new AgentError("E_CANCELLED", `connecting to ${where} was cancelled`));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("open", resolve);
      stream.once("error", reject);
    });
    return stream;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** A socket as a stream of messages: what is written goes out as binary, text comes in as UTF-8. */
function messages(socket: WebSocket): Duplex {
  let answered = true;
  const heartbeat = setInterval(() => {
    if (socket.readyState !== WebSocket.OPEN) return;
    if (answered) socket.ping();
    else stream.destroy(new AgentError("E_CONNECTION", "the WebSocket peer does not answer pings"));
    answered = socket.isPaused; // a pong cannot reach us while the client does not read
  }, pingEveryMs);
  heartbeat.unref();

  const stream = new Duplex({
    objectMode: true,
    read: () => socket.resume(),
    write: (message: Uint8Array, _encoding, done) => socket.send(message, { binary: true }, done),
    // WebSockets have no half-close: after the client's last message the peer may still talk.
    final: (done) => done(),
    destroy(error, done) {
      clearInterval(heartbeat);
      if (error === null) {
        socket.close(1000);
        socket.resume(); // to see the peer's close frame
      } else socket.terminate();
      done(error);
    },
  });
  stream.on("error", () => {}); // may break between two readers; it stays in `errored`
  socket.on("pong", () => (answered = true));
  socket.on("message", (data: RawData) => {
    if (!stream.push(toBuffer(data))) socket.pause();
  });
  socket.on("error", (error) => stream.destroy(error));
  socket.on("close", (code, reason) => {
    clearInterval(heartbeat);
    if (orderly.has(code)) stream.push(null);
    else
      stream.destroy(
        new AgentError("E_CONNECTION", `the WebSocket peer closed: ${code} ${reason.toString()}`.trimEnd()),
      );
  });
  return stream;
}

function toBuffer(data: RawData): Buffer {
  if (Array.isArray(data)) return Buffer.concat(data);
  return Buffer.isBuffer(data) ? data : Buffer.from(data);
}
