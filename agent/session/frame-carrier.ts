import type { ServerHttp2Stream } from "node:http2";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { FrameReader } from "../stream/frame-reader.ts";
import { frameHeadLength, writeFrameHead, type Frame } from "../stream/frames.ts";
import { RouterStream, type RouterStreamOptions } from "../stream/router-stream.ts";
import { prefixBytes, writePrefix } from "../stream/rpc-messages.ts";

/** Payloads shorter than this are copied beside their neighbours: one write is cheaper than two. */
const copyBelowBytes = 8 * 1024;

/**
 * An end without GOAWAY may be the first half of a cancel: Node's HTTP/2 clients half-close before they reset, and a
 * broken upload must not pass for a whole one. The reset follows within 1 ms on one host. Python's clients say GOAWAY,
 * and that is the end at once.
 */
export const resetFollowsMs = 100;

/** The server's end of a router stream, on the HTTP/2 stream of its RPC. */
export function streamOfRpc(http2: ServerHttp2Stream, options?: RouterStreamOptions): RouterStream {
  const stream = new RouterStream(
    {
      send: (payloads, frameType, done) => send(http2, payloads, frameType, done),
      finish: () => {},
      flow: (wanted) => {
        if (wanted) http2.resume();
        else http2.pause();
      },
      destroy: () => http2.resume(),
    },
    options,
  );
  const reader = new FrameReader({ side: "SERVER", bytes: options?.bytes ?? false });
  const take = (frame: Frame) => stream.receive(frame);
  http2.on("data", (chunk: Buffer) => {
    try {
      reader.read(chunk, take);
    } catch (error) {
      stream.destroy(toAgentError(error));
    }
  });
  http2.once("end", () => {
    if (!reader.atBoundary) stream.destroy(new AgentError("E_INVALID", "the stream ended within a frame"));
    else if (stream.writableEnded) stream.receiveEnd();
    else setTimeout(() => stream.receiveEnd(), resetFollowsMs);
  });
  // Somebody who waits for bytes must learn that no more will come.
  stream.on("error", () => {});
  const lost = () => {
    if (!stream.destroyed) stream.destroy(new AgentError("E_CANCELLED", "the caller has gone"));
  };
  http2.once("aborted", lost);
  http2.once("close", lost);
  if (http2.closed || http2.destroyed) lost();
  return stream;
}

/** Writes frames as gRPC messages, many small ones in one piece. */
function send(
  http2: ServerHttp2Stream,
  payloads: readonly Uint8Array[],
  frameType: number,
  done: (error?: Error | null) => void,
): void {
  if (http2.destroyed || http2.writableEnded) {
    done();
    return;
  }
  const pieces: Uint8Array[] = [];
  let room = 0;
  for (const payload of payloads) {
    room += prefixBytes + frameHeadLength(payload.length, frameType);
    if (payload.length < copyBelowBytes) room += payload.length;
  }
  const copied = Buffer.allocUnsafe(room);
  let from = 0;
  let at = 0;
  for (const payload of payloads) {
    at = writePrefix(copied, at, frameHeadLength(payload.length, frameType) + payload.length);
    at = writeFrameHead(copied, at, payload.length, frameType);
    if (payload.length < copyBelowBytes) {
      copied.set(payload, at);
      at += payload.length;
    } else {
      pieces.push(copied.subarray(from, at), payload);
      from = at;
    }
  }
  if (from < at) pieces.push(copied.subarray(from, at));
  http2.cork();
  const last = pieces.length - 1;
  for (const [index, piece] of pieces.entries()) http2.write(piece, index === last ? done : undefined);
  http2.uncork();
}
