import type { ServerHttp2Stream } from "node:http2";
import type { BridgedStream } from "../driver/bridge.ts";
import { AgentError } from "../driver/errors.ts";
import { resetFollowsMs } from "./frame-carrier.ts";

/** Payloads and all that is between them, so far. */
export interface Passed {
  receivedBytes: number;
  sentBytes: number;
}

/**
 * Joins an RPC's stream with one that carries the same messages, as they are. The other side's end is the end of both.
 * @throws AgentError what the other side fails with, or E_CANCELLED
 */
export async function passStream(
  http2: ServerHttp2Stream,
  { stream: other, release = () => {} }: BridgedStream,
  passed: Passed,
): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      http2.on("data", (chunk: Buffer) => {
        passed.receivedBytes += chunk.length;
        if (!other.destroyed && !other.write(chunk)) http2.pause();
      });
      other.on("drain", () => http2.resume());
      // The half-close may be the first half of a cancel.
      http2.once("end", () => setTimeout(() => other.end(), resetFollowsMs));
      const gone = () => reject(new AgentError("E_CANCELLED", "the caller has gone"));
      http2.once("aborted", gone);
      http2.once("close", gone);
      if (http2.closed || http2.destroyed) gone();
      other.on("data", (chunk: Buffer) => {
        passed.sentBytes += chunk.length;
        if (http2.destroyed || http2.writableEnded) return;
        // What was cut off may still be in the hands of the transport.
        const taken = http2.write(chunk, (error) => {
          if (!error) release(chunk);
        });
        if (!taken) other.pause();
      });
      http2.on("drain", () => other.resume());
      other.once("end", resolve);
      other.once("error", reject);
      other.once("close", () => reject(new AgentError("E_CONNECTION", "the stream broke")));
    });
  } finally {
    other.destroy();
    http2.resume();
  }
}
