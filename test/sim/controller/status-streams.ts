import { status } from "@grpc/grpc-js";
import { ExporterStatus } from "../../../proto/gen/jumpstarter/v1/common.ts";
import { StatusResponse } from "../../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { RpcError, type Call, type Sink } from "./rpc.ts";
import type { Records } from "./records.ts";
import type { ExporterObject, World } from "./world.ts";

/** Messages to one exporter that are kept back until they are let go, in the order that a test likes. */
export interface HeldMessages {
  readonly held: readonly StatusResponse[];
  /** Sends what is held, as `order` arranges it, and lets later messages pass. */
  release(order?: (held: StatusResponse[]) => StatusResponse[]): void;
}

export interface StatusStreams {
  /** Serves one Status RPC: the state of things at once, and then each change of it. */
  serve(exporter: ExporterObject, call: Call, out: Sink<StatusResponse>): Promise<void>;
  /** Ends the streams, cleanly without a code. Default: those of all exporters. */
  end(exporter?: string, code?: status, details?: string): number;
  /** Sends any message, true or not, on the open streams of an exporter. */
  send(exporter: string, message: Partial<StatusResponse>): void;
  /** Every message is sent this many times; 1 is honest. */
  repeat(exporter: string, times: number): void;
  hold(exporter: string): HeldMessages;
}

interface Open {
  readonly exporter: string;
  readonly out: Sink<StatusResponse>;
  end(error?: RpcError): void;
}

export function createStatusStreams(world: World, records: Records, withContext: boolean): StatusStreams {
  const open = new Set<Open>();
  const repeats = new Map<string, number>();
  const holds = new Map<string, StatusResponse[]>();

  const deliver = (exporter: string, message: StatusResponse, to: Iterable<Open>) => {
    for (const stream of to) {
      if (stream.exporter === exporter) for (let n = repeats.get(exporter) ?? 1; n > 0; n--) stream.out.send(message);
    }
  };
  const truth = (exporter: ExporterObject): StatusResponse => {
    const lease = world.leaseOf(exporter);
    if (!lease) return { leased: false, context: {} };
    const context = withContext ? { ...lease.context } : {};
    return { leased: true, leaseName: lease.name, clientName: lease.client, context };
  };
  return {
    async serve(exporter, call, out) {
      const record = { atMs: records.nowMs(), exporter: exporter.name, endedAtMs: undefined as number | undefined };
      records.statusStreams.push(record);
      let last: string | undefined;
      const tell = () => {
        const message = truth(exporter);
        const text = JSON.stringify(message);
        if (text === last) return;
        last = text;
        const held = holds.get(exporter.name);
        if (held) held.push(message);
        else deliver(exporter.name, message, [stream]);
        records.touched();
      };
      let stream!: Open;
      const ended = new Promise<RpcError | undefined>((resolve) => {
        stream = { exporter: exporter.name, out, end: resolve };
        call.signal.addEventListener("abort", () => resolve(undefined), { once: true });
        if (call.signal.aborted) resolve(undefined);
      });
      open.add(stream);
      const unwatch = world.watch(tell);
      exporter.statusStreams++;
      exporter.lastSeenMs = performance.now();
      if (exporter.status === ExporterStatus.EXPORTER_STATUS_OFFLINE) {
        exporter.status = ExporterStatus.EXPORTER_STATUS_UNSPECIFIED;
        exporter.statusMessage = "";
      }
      tell();
      world.changed();
      const error = await ended;
      unwatch();
      open.delete(stream);
      exporter.statusStreams--;
      exporter.lastSeenMs = performance.now();
      record.endedAtMs = records.nowMs();
      world.changed();
      if (error) throw error;
    },
    end(exporter, code, details = "") {
      const ending = [...open].filter((stream) => exporter === undefined || stream.exporter === exporter);
      for (const stream of ending) stream.end(code === undefined ? undefined : new RpcError(code, details));
      return ending.length;
    },
    send: (exporter, message) => deliver(exporter, { leased: false, context: {}, ...message }, open),
    repeat: (exporter, times) => void repeats.set(exporter, times),
    hold(exporter) {
      const held = holds.get(exporter) ?? [];
      holds.set(exporter, held);
      return {
        held,
        release(order = (messages) => messages) {
          if (holds.get(exporter) === held) holds.delete(exporter);
          for (const message of order(held.splice(0))) deliver(exporter, message, open);
        },
      };
    },
  };
}
