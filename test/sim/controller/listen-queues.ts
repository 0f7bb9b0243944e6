import { status } from "@grpc/grpc-js";
import type { ListenResponse } from "../../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { RpcError, type Call, type Sink } from "./rpc.ts";
import type { Records } from "./records.ts";

/** How many tokens wait for an exporter that does not take them. */
const depth = 8;

/** Where dials of a lease meet the Listen stream of its exporter. */
export interface ListenQueues {
  serve(exporter: string, lease: string, call: Call, out: Sink<ListenResponse>): Promise<void>;
  hasListener(lease: string): boolean;
  /** Hands a token to the exporter that listens on the lease. */
  push(lease: string, response: ListenResponse, signal?: AbortSignal): Promise<void>;
  /** Ends the Listen streams, cleanly without a code. Default: those of all exporters. */
  end(exporter?: string, code?: status, details?: string): number;
  /** Keeps tokens in the queues, as if the exporter did not read its stream; the function returned lets them go. */
  hold(): () => void;
}

interface Queue {
  readonly tokens: ListenResponse[];
  readonly listeners: Set<Listener>;
  readonly spaceWanted: Set<() => void>;
}

interface Listener {
  readonly exporter: string;
  readonly out: Sink<ListenResponse>;
  end(error?: RpcError): void;
}

/**
 * `shared`: as controllers before 0.9. All Listen streams of a lease take turns at one queue, which a dial may fill before
 * anybody listens. Otherwise each Listen has a queue of its own and ends the one before it.
 */
export function createListenQueues(records: Records, shared: boolean): ListenQueues {
  const queues = new Map<string, Queue>();
  let held = false;
  const newQueue = (): Queue => ({ tokens: [], listeners: new Set(), spaceWanted: new Set() });
  const flush = (queue: Queue) => {
    const [listener] = queue.listeners;
    if (!listener || held) return;
    for (const token of queue.tokens.splice(0)) listener.out.send(token);
    for (const wake of queue.spaceWanted) wake();
  };
  const full = async (queue: Queue, signal?: AbortSignal) => {
    while (queue.tokens.length >= depth) {
      await new Promise<void>((resolve, reject) => {
        queue.spaceWanted.add(resolve);
        signal?.addEventListener("abort", () => reject(new RpcError(status.CANCELLED, "context canceled")), {
          once: true,
        });
      });
    }
  };
  return {
    async serve(exporter, lease, call, out) {
      const record = { atMs: records.nowMs(), exporter, lease, endedAtMs: undefined as number | undefined };
      records.listens.push(record);
      const superseded = queues.get(lease);
      const queue = shared ? (superseded ?? newQueue()) : newQueue();
      queues.set(lease, queue);
      if (!shared && superseded) {
        // The older stream still gets what was queued for it, and then ends without an error.
        for (const old of superseded.listeners) {
          for (const token of superseded.tokens.splice(0)) old.out.send(token);
          old.end();
        }
      }
      let listener!: Listener;
      const ended = new Promise<RpcError | undefined>((resolve) => {
        listener = { exporter, out, end: resolve };
        call.signal.addEventListener("abort", () => resolve(undefined), { once: true });
        if (call.signal.aborted) resolve(undefined);
      });
      queue.listeners.add(listener);
      flush(queue);
      records.touched();
      const error = await ended;
      queue.listeners.delete(listener);
      if (!shared && queues.get(lease) === queue) queues.delete(lease);
      record.endedAtMs = records.nowMs();
      records.touched();
      if (error) throw error;
    },
    hasListener: (lease) => (queues.get(lease)?.listeners.size ?? 0) > 0,
    async push(lease, response, signal) {
      let queue = queues.get(lease);
      if (shared) {
        if (!queue) queues.set(lease, (queue = newQueue()));
        await full(queue, signal);
      } else {
        if (!queue) throw new RpcError(status.UNAVAILABLE, `exporter is not listening on lease ${lease}`);
        if (queue.tokens.length >= depth) {
          throw new RpcError(status.RESOURCE_EXHAUSTED, `listener buffer full on lease ${lease}`);
        }
      }
      queue.tokens.push(response);
      flush(queue);
    },
    end(exporter, code, details = "") {
      const ending = [...queues.values()]
        .flatMap(({ listeners }) => [...listeners])
        .filter((listener) => exporter === undefined || listener.exporter === exporter);
      for (const listener of ending) listener.end(code === undefined ? undefined : new RpcError(code, details));
      return ending.length;
    },
    hold() {
      held = true;
      return () => {
        held = false;
        for (const queue of queues.values()) flush(queue);
      };
    },
  };
}
