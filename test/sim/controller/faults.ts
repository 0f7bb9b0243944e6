import type { status } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";
import { RpcError, type Call } from "./rpc.ts";

export interface FaultOptions {
  /** How often it happens; default: until `off` is called. */
  readonly times?: number;
  /** Only for calls with this name in their metadata. */
  readonly caller?: string;
  /** The RPC takes effect first, and then its answer is lost. Default: it takes no effect. */
  readonly afterEffect?: boolean;
}

export interface Fault {
  /** How often it has happened. */
  readonly count: number;
  off(): void;
}

/** What goes wrong with the RPCs of a server. RPC names are as in the protos: `ReportStatus`, `CreateLease`, `Stream`. */
export interface Faults {
  /** Ends the RPC with a gRPC status. */
  answer(rpc: string, code: status, details: string, options?: FaultOptions): Fault;
  /** Never answers. `off` lets later calls through; those that are swallowed stay so until their callers give up. */
  swallow(rpc: string, options?: FaultOptions): Fault;
  /** Answers late. */
  delay(rpc: string, delayMs: number, options?: Omit<FaultOptions, "afterEffect">): Fault;
  /** Ends all faults of this kind. */
  clear(): void;
  /** For the servers: what is to happen to this call. */
  take(rpc: string, call: Call): { before(): Promise<void>; after(): Promise<void> } | undefined;
}

interface Active extends Fault {
  count: number;
  readonly rpc: string;
  readonly options: FaultOptions;
  happen(call: Call): Promise<void>;
}

export function createFaults(): Faults {
  const active = new Set<Active>();
  const add = (rpc: string, options: FaultOptions, happen: Active["happen"]): Fault => {
    const fault: Active = { rpc, options, happen, count: 0, off: () => void active.delete(fault) };
    active.add(fault);
    return fault;
  };
  return {
    answer: (rpc, code, details, options = {}) =>
      add(rpc, options, async () => {
        throw new RpcError(code, details);
      }),
    swallow: (rpc, options = {}) =>
      add(
        rpc,
        options,
        ({ signal }) => new Promise<void>((_, reject) => onAbort(signal, () => reject(new RpcError(1, "cancelled")))),
      ),
    delay: (rpc, delayMs, options = {}) =>
      add(rpc, options, async ({ signal }) => {
        await sleep(delayMs, undefined, { signal, ref: false }).catch(() => {
          throw new RpcError(1, "cancelled");
        });
      }),
    clear: () => active.clear(),
    take(rpc, call) {
      const name = call.metadata.get("jumpstarter-name")[0];
      const chosen = [...active].filter(
        ({ rpc: wanted, options }) => wanted === rpc && (options.caller === undefined || options.caller === name),
      );
      if (chosen.length === 0) return undefined;
      for (const fault of chosen) {
        fault.count++;
        if (fault.count >= (fault.options.times ?? Infinity)) active.delete(fault);
      }
      const run = async (afterEffect: boolean) => {
        for (const fault of chosen) if ((fault.options.afterEffect ?? false) === afterEffect) await fault.happen(call);
      };
      return { before: () => run(false), after: () => run(true) };
    },
  };
}

function onAbort(signal: AbortSignal, action: () => void): void {
  if (signal.aborted) action();
  else signal.addEventListener("abort", action, { once: true });
}
