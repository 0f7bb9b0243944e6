import { once } from "node:events";
import type { ClientHttp2Stream } from "node:http2";
import { connect } from "node:net";
import { Channel, type RpcCall } from "../../agent/client/channel.ts";
import { rpcMethod } from "../../agent/client/rpc-method.ts";
import { frameTypes, writeFrameHead, frameHeadLength } from "../../agent/stream/frames.ts";
import { prefixBytes, writePrefix } from "../../agent/stream/rpc-messages.ts";
import { ExporterServiceDefinition, type GetReportResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { RouterServiceDefinition } from "../../proto/gen/jumpstarter/v1/router.ts";

/**
 * The client of both sides. It must cost less than any exporter, so it neither encodes nor decodes frames while it
 * is timed: it sends the same bytes again and again, and counts what comes.
 */
export interface Wire {
  report(): Promise<GetReportResponse>;
  /** Opens the `connect` stream of the driver with this name at the top of the tree. */
  stream(driver: string): Promise<ClientHttp2Stream>;
  close(): Promise<void>;
}

/** Undefined while nothing listens on the port. */
export async function openWire(port: number): Promise<Wire | undefined> {
  const probe = connect(port, "127.0.0.1");
  try {
    await once(probe, "connect");
  } catch {
    return undefined;
  } finally {
    probe.destroy();
  }
  const channel = new Channel({ kind: "tcp", host: "127.0.0.1", port }, { insecure: true });
  const calls: RpcCall[] = [];
  const report = () => channel.unary(rpcMethod(ExporterServiceDefinition, "getReport"), {}, { what: "GetReport" });
  return {
    report,
    stream: async (driver) => {
      const node = (await report()).reports.find((each) => each.labels["jumpstarter.dev/name"] === driver);
      if (node === undefined) throw new Error(`no driver ${driver}`);
      const request = JSON.stringify({ kind: "driver", uuid: node.uuid, method: "connect" });
      const call = channel.start(rpcMethod(RouterServiceDefinition, "stream").path, { request }, { what: "Stream" });
      call.status.catch(() => {}); // it is cancelled when all is measured
      calls.push(call);
      await call.metadata;
      return call.stream;
    },
    close: async () => {
      for (const call of calls) call.cancel();
      await channel.close();
    },
  };
}

/** As many DATA frames of this payload as fill about 1 MiB, as they lie on the HTTP/2 stream. */
export function frames(payloadBytes: number): { bytes: Buffer; payloadBytes: number } {
  const count = Math.max(1, Math.floor((1 << 20) / payloadBytes));
  const messageBytes = frameHeadLength(payloadBytes, frameTypes.DATA) + payloadBytes;
  const frame = Buffer.alloc(prefixBytes + messageBytes, 0x5a);
  writeFrameHead(frame, writePrefix(frame, 0, messageBytes), payloadBytes, frameTypes.DATA);
  return { bytes: Buffer.concat(Array<Buffer>(count).fill(frame)), payloadBytes: count * payloadBytes };
}
