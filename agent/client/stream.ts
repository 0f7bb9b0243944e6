import type { ClientHttp2Stream } from "node:http2";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { RouterServiceDefinition } from "../../proto/gen/jumpstarter/v1/router.ts";
import { toAgentError } from "../driver/errors.ts";
import { FrameReader } from "../stream/frame-reader.ts";
import { frameHeadLength, frameTypes, writeFrameHead, type Frame } from "../stream/frames.ts";
import { RouterStream, type RouterStreamOptions } from "../stream/router-stream.ts";
import { prefixBytes, writePrefix } from "../stream/rpc-messages.ts";
import type { CallOptions, Channel, RpcCall } from "./channel.ts";
import { rpcMethod } from "./rpc-method.ts";

interface StreamOptions extends RouterStreamOptions {
  /**
   * The peer's GOAWAY is held back until its RPC has ended, or a moment has passed: an exporter that loses a device says why after it. For
   * streams whose two directions end together.
   */
  readonly endsWithReason?: boolean | undefined;
}

/**
 * Opens RouterService.Stream inside a session.
 * @param request what to open: `{"kind":"driver",…}` or `{"kind":"resource",…}`.
 * @returns when the exporter has sent its initial metadata. Aborting the signal destroys the stream.
 */
export async function openStream(
  channel: Channel,
  request: Readonly<Record<string, unknown>>,
  options: CallOptions & StreamOptions,
): Promise<{ stream: Duplex; metadata: ReadonlyMap<string, string> }> {
  const call = channel.start(
    rpcMethod(RouterServiceDefinition, "stream").path,
    { request: JSON.stringify(request) },
    options,
  );
  const stream = streamOfCall(call, options);
  const metadata = await call.metadata;
  return { stream, metadata: new Map(Object.entries(metadata).map(([key, value]) => [key, String(value)])) };
}

/**
 * Opens RouterService.Stream at a router, which joins it with a client's. It can be written at once: a router answers
 * with its first metadata when the other side has come, if at all.
 * @param headers the token that the controller gave out for this meeting, as `authorization`
 */
export function openRouterStream(
  channel: Channel,
  headers: Readonly<Record<string, string>>,
  options: CallOptions & RouterStreamOptions,
): Duplex {
  const call = channel.start(rpcMethod(RouterServiceDefinition, "stream").path, headers, options);
  call.status.catch(() => {}); // the stream tells
  return streamOfCall(call, { bytes: true, ...options });
}

/** How long a peer may take to end an RPC whose both directions have ended; the Python exporter never does. */
const lingerMs = 5_000;

/** How long a reason may come after its GOAWAY: several short waits, as one alone is over before a busy event loop has looked what came. */
const reasonMs = [25, 25, 25, 25];

/** The caller's end of a router stream. What the RPC ends with counts only if it comes before the end of what is read. */
function streamOfCall(call: RpcCall, options: StreamOptions): RouterStream {
  const { stream: http2, status } = call;
  let peerEnded = false;
  const stream: RouterStream = new RouterStream(
    {
      send: (payloads, frameType, done) => sendFrames(http2, payloads, frameType, done),
      finish: () => http2.end(),
      flow: (wanted) => void (wanted ? http2.resume() : http2.pause()),
      destroy: (error) => {
        http2.resume();
        if (!stream.readableEnded || error !== null) {
          call.cancel();
          return;
        }
        // After the peer's goodbye ours is enough; a cancelled RPC is a broken connection to whoever is behind a router.
        if (!stream.writableEnded) sendFrames(http2, [Buffer.alloc(0)], frameTypes.GOAWAY, () => http2.end());
        const overdue = setTimeout(() => call.cancel(), lingerMs).unref();
        http2.once("close", () => clearTimeout(overdue));
      },
    },
    options,
  );
  // Whoever reads or writes it learns of errors; they are no reason to crash.
  stream.on("error", () => {});
  const reader = new FrameReader({ side: "CLIENT", bytes: options.bytes ?? false });
  const take = (frame: Frame) => {
    if (frame.frameType !== frameTypes.GOAWAY) return stream.receive(frame);
    peerEnded = true;
    if (options.endsWithReason !== true) return stream.receive(frame);
    const closed = new AbortController();
    stream.once("close", () => closed.abort());
    void waitFor(reasonMs, closed.signal).then(
      () => stream.receive(frame),
      () => {},
    );
  };
  http2.on("data", (chunk: Buffer) => {
    try {
      reader.read(chunk, take);
    } catch (error) {
      stream.destroy(toAgentError(error));
    }
  });
  const over = () => {
    status.then(
      () => stream.receiveEnd(),
      (error: unknown) => {
        // What nobody has read yet is worth more than the reason of the end.
        const comesInTime = options.endsWithReason === true && !stream.hasEnded && stream.readableLength === 0;
        if (!peerEnded || comesInTime) stream.destroy(toAgentError(error));
      },
    );
  };
  http2.once("end", over);
  http2.once("close", over);
  return stream;
}

async function waitFor(timesMs: readonly number[], signal: AbortSignal): Promise<void> {
  for (const ms of timesMs) await sleep(ms, undefined, { signal });
}

/** Each payload as one gRPC message; it is not copied. */
function sendFrames(
  http2: ClientHttp2Stream,
  payloads: readonly Uint8Array[],
  frameType: number,
  done: (error?: Error | null) => void,
): void {
  if (http2.destroyed || http2.closed || http2.writableEnded) {
    done();
    return;
  }
  http2.cork();
  const last = payloads.length - 1;
  for (const [index, payload] of payloads.entries()) {
    const headBytes = frameHeadLength(payload.length, frameType);
    const head = Buffer.allocUnsafe(prefixBytes + headBytes);
    writeFrameHead(head, writePrefix(head, 0, headBytes + payload.length), payload.length, frameType);
    http2.write(head);
    http2.write(payload, index === last ? done : undefined);
  }
  http2.uncork();
}
