import type { status } from "@grpc/grpc-js";
import type { ExporterStatus } from "../../../proto/gen/jumpstarter/v1/common.ts";
import type { DriverInstanceReport } from "../../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import type { LogEntry } from "../../../proto/gen/jumpstarter/v1/telemetry.ts";
import type { Call } from "./rpc.ts";

/** When it came, in milliseconds since the lab was started. */
interface Timed {
  readonly atMs: number;
}

export interface RegisterRecord extends Timed {
  readonly exporter: string;
  readonly labels: Record<string, string>;
  readonly reports: DriverInstanceReport[];
}

export interface StatusRecord extends Timed {
  readonly exporter: string;
  readonly status: ExporterStatus;
  /** The name of `status` without its prefix, such as LEASE_READY. */
  readonly name: string;
  readonly message: string | undefined;
  readonly releaseLease: boolean;
  /** The lease that the exporter had then. */
  readonly lease: string | undefined;
}

export interface CallRecord extends Timed {
  readonly rpc: string;
  /** The name in the call's metadata. */
  readonly caller: string | undefined;
  /** Undefined while the call lasts. */
  code: status | undefined;
  details: string | undefined;
  endedAtMs: number | undefined;
}

export interface TunnelRecord extends Timed {
  /** The subject of the token, by which the router pairs its callers. */
  readonly stream: string;
  /** How many callers have come: 1 waits for its peer. */
  callers: number;
  /** Messages and bytes in both directions together. */
  messages: number;
  bytes: number;
  /** Callers whose RPC has ended. */
  ended: number;
}

/** Everything that the lab has received, in the order in which it came. */
export interface Records {
  /** All RPCs, also refused ones, of all services. */
  readonly calls: CallRecord[];
  readonly registers: RegisterRecord[];
  readonly unregisters: (Timed & { exporter: string; reason: string })[];
  /** Every ReportStatus that was taken. */
  readonly statuses: StatusRecord[];
  readonly releases: (Timed & { caller: string; kind: string; lease: string })[];
  readonly listens: (Timed & { exporter: string; lease: string; endedAtMs: number | undefined })[];
  readonly statusStreams: (Timed & { exporter: string; endedAtMs: number | undefined })[];
  readonly dials: (Timed & { client: string; lease: string; stream: string })[];
  readonly tunnels: TunnelRecord[];
  readonly logs: (Timed & { entry: LogEntry })[];
  /** Faults of the sim itself; a test that ends with any of them has proved nothing. */
  readonly problems: string[];
  nowMs(): number;
  /** Forgets all that is recorded so far. */
  clear(): void;
  /** Tells those who wait that something has been recorded. */
  touched(): void;
  call(rpc: string, call: Call): { end(code: status, details?: string): void };
}

export function createRecords(touched: () => void): Records {
  const startMs = performance.now();
  const nowMs = () => Math.round(performance.now() - startMs);
  const records: Records = {
    calls: [],
    registers: [],
    unregisters: [],
    statuses: [],
    releases: [],
    listens: [],
    statusStreams: [],
    dials: [],
    tunnels: [],
    logs: [],
    problems: [],
    nowMs,
    touched,
    clear() {
      for (const list of Object.values(records) as unknown[]) if (Array.isArray(list)) list.length = 0;
    },
    call(rpc, call) {
      const caller = call.metadata.get("jumpstarter-name")[0]?.toString();
      const record: CallRecord = {
        ...{ atMs: nowMs(), rpc, caller },
        ...{ code: undefined, details: undefined, endedAtMs: undefined },
      };
      records.calls.push(record);
      touched();
      return {
        end(code, details) {
          Object.assign(record, { code, details, endedAtMs: nowMs() });
          touched();
        },
      };
    },
  };
  return records;
}
