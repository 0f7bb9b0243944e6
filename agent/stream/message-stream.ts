import type { Duplex } from "node:stream";
import { toAgentError } from "../driver/errors.ts";
import { FrameReader } from "./frame-reader.ts";
import { frameHeadLength, writeFrameHead, type Frame } from "./frames.ts";
import { RouterStream } from "./router-stream.ts";
import { prefixBytes, writePrefix } from "./rpc-messages.ts";

/** A router stream whose gRPC messages another stream carries, with their prefixes; that one goes with it. */
export function streamOfMessages(carrier: Duplex): RouterStream {
  const stream = new RouterStream({
    send: (payloads, frameType, done) => {
      const last = payloads.length - 1;
      for (const [index, payload] of payloads.entries()) {
        const headBytes = frameHeadLength(payload.length, frameType);
        const head = Buffer.allocUnsafe(prefixBytes + headBytes);
        writeFrameHead(head, writePrefix(head, 0, headBytes + payload.length), payload.length, frameType);
        carrier.write(head);
        carrier.write(payload, index === last ? done : undefined);
      }
    },
    finish: () => carrier.end(),
    flow: (wanted) => void (wanted ? carrier.resume() : carrier.pause()),
    destroy: () => carrier.destroy(),
  });
  stream.on("error", () => {});
  const reader = new FrameReader({ side: "CLIENT", bytes: false });
  const take = (frame: Frame) => stream.receive(frame);
  carrier.on("data", (chunk: Buffer) => {
    try {
      reader.read(chunk, take);
    } catch (error) {
      stream.destroy(toAgentError(error));
    }
  });
  carrier.once("end", () => stream.receiveEnd());
  carrier.once("error", (error) => stream.destroy(error));
  return stream;
}
