import { randomUUID } from "node:crypto";
import { Empty } from "../../proto/gen/google/protobuf/empty.ts";
import {
  DriverCallRequest,
  DriverCallResponse,
  EndSessionRequest,
  EndSessionResponse,
  GetReportResponse,
  GetStatusRequest,
  GetStatusResponse,
  LogStreamResponse,
  ResetRequest,
  ResetResponse,
  StreamingDriverCallRequest,
  StreamingDriverCallResponse,
} from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { AgentError, toAgentError, type ErrorCategory } from "../driver/errors.ts";
import { invokeStreaming, invokeUnary } from "../driver/invoke.ts";
import type { LiveDriver } from "../driver/live-driver.ts";
import { fromWire, toWire } from "../stream/value.ts";
import { bridgedCall, bridgedStreamingCall } from "./bridged.ts";
import type { Exporter } from "./exporter.ts";
import type { Limit } from "./limit.ts";
import { callBegins } from "./observed.ts";
import { report } from "./report.ts";
import type { RpcMethod, StreamingRpc, UnaryRpc } from "./rpc-server.ts";
import type { Session } from "./session.ts";
import { exporterStates, type Caller } from "./status.ts";

/** A session as one listener serves it. */
export interface Service {
  readonly session: Session;
  /** Who uses this listener. */
  readonly caller: Caller;
  /** Calls that may run at once. */
  readonly calls: Limit;
  /** Byte streams that may be open at once. */
  readonly streams: Limit;
  /** How long a stream to a device that cannot be half-closed outlives its client's end without output. */
  readonly lingerMs: number;
  /** Aborted when the session begins to close: what has no end of its own ends then. */
  readonly closing: AbortSignal;
}

const servicePath = "/jumpstarter.v1.ExporterService";

/** jumpstarter.v1.ExporterService, by path. */
export function exporterService(service: Service): Map<string, RpcMethod> {
  const { session } = service;
  const { exporter } = session;

  const getReport: UnaryRpc<Empty, GetReportResponse> = {
    kind: "unary",
    ...codec(Empty, GetReportResponse),
    handle: () => report(exporter, session.motd),
  };

  const getStatus: UnaryRpc<GetStatusRequest, GetStatusResponse> = {
    kind: "unary",
    ...codec(GetStatusRequest, GetStatusResponse),
    handle: () => {
      const { state, previous, message, version } = session.status;
      return {
        status: exporterStates[state],
        message,
        statusVersion: BigInt(version),
        previousStatus: previous === undefined ? undefined : exporterStates[previous],
      };
    },
  };

  const driverCall: UnaryRpc<Raw<DriverCallRequest>, DriverCallResponse | Uint8Array> = {
    kind: "unary",
    ...rawCodec(DriverCallRequest, DriverCallResponse),
    handle: async (request, rpc) => {
      const driver = admit(service, request.uuid);
      const release = service.calls.enter();
      if (driver.bridge !== undefined) {
        const { bridge } = driver;
        try {
          return await logged(service, driver, request.method, () => bridgedCall(driver, bridge, request, rpc));
        } finally {
          release();
        }
      }
      const { call, done } = exporter.beginCall(driver, rpc);
      const args = request.args.map(fromWire);
      try {
        const result = await logged(service, driver, request.method, async () =>
          toWire(await invokeUnary(driver, request.method, args, call)),
        );
        return { uuid: randomUUID(), result };
      } finally {
        done();
        discardUnused(exporter, args);
        release();
      }
    },
  };

  const streamingDriverCall: StreamingRpc<Raw<StreamingDriverCallRequest>, StreamingDriverCallResponse | Uint8Array> = {
    kind: "streaming",
    ...rawCodec(StreamingDriverCallRequest, StreamingDriverCallResponse),
    handle: async function* (request, rpc) {
      const driver = admit(service, request.uuid);
      const release = service.calls.enter();
      if (driver.bridge !== undefined) {
        const operation = beginOperation(service, driver, request.method);
        try {
          yield* bridgedStreamingCall(driver, driver.bridge, request, rpc);
          operation.completed();
        } catch (error) {
          operation.failed(error);
          throw error;
        } finally {
          operation.left();
          release();
        }
        return;
      }
      const { call, done } = exporter.beginCall(driver, rpc);
      const args = request.args.map(fromWire);
      const operation = beginOperation(service, driver, request.method);
      try {
        for await (const item of invokeStreaming(driver, request.method, args, call)) {
          yield { uuid: randomUUID(), result: toWire(item) };
        }
        operation.completed();
      } catch (error) {
        operation.failed(error);
        throw error;
      } finally {
        operation.left();
        done();
        discardUnused(exporter, args);
        release();
      }
    },
  };

  const logStream: StreamingRpc<Empty, LogStreamResponse> = {
    kind: "streaming",
    ...codec(Empty, LogStreamResponse),
    handle: (_request, rpc) => session.logRing.read(rpc.signal, service.closing),
  };

  const endSession: UnaryRpc<EndSessionRequest, EndSessionResponse> = {
    kind: "unary",
    ...codec(EndSessionRequest, EndSessionResponse),
    handle: () => session.endSession(),
  };

  const reset: UnaryRpc<ResetRequest, ResetResponse> = {
    kind: "unary",
    ...codec(ResetRequest, ResetResponse),
    handle: () => {
      throw new AgentError("E_UNSUPPORTED", "Method not implemented!");
    },
  };

  return new Map<string, RpcMethod>([
    [`${servicePath}/GetReport`, getReport],
    [`${servicePath}/GetStatus`, getStatus],
    [`${servicePath}/DriverCall`, driverCall],
    [`${servicePath}/StreamingDriverCall`, streamingDriverCall],
    [`${servicePath}/LogStream`, logStream],
    [`${servicePath}/EndSession`, endSession],
    [`${servicePath}/Reset`, reset],
  ]);
}

interface Message<T> {
  decode(bytes: Uint8Array): T;
  encode(message: T): { finish(): Uint8Array };
}

function codec<Request, Response>(request: Message<Request>, response: Message<Response>) {
  return {
    decode: (bytes: Buffer) => request.decode(bytes),
    encode: (message: Response) => response.encode(message).finish(),
  };
}

/** A request together with the bytes that it came as: what goes over a bridge goes as it came. */
export type Raw<T> = T & { readonly bytes: Uint8Array };

function rawCodec<Request, Response extends object>(request: Message<Request>, response: Message<Response>) {
  return {
    decode: (bytes: Buffer): Raw<Request> => ({ ...request.decode(bytes), bytes }),
    encode: (answer: Response | Uint8Array) =>
      answer instanceof Uint8Array ? answer : response.encode(answer).finish(),
  };
}

/** Finds the driver of a call, if the caller may call it now. */
export function admit({ session, caller }: Service, uuid: string): LiveDriver {
  session.status.admit(caller);
  const { tree } = session.exporter;
  const driver = tree.byUuid(uuid) ?? tree.byUuid(canonicalUuid(uuid));
  // Not NOT_FOUND: clients take that for a missing method. The text is the Python exporter's.
  if (driver === undefined) {
    throw new AgentError("E_NO_DRIVER", `Unexpected <class 'KeyError'>: UUID('${canonicalUuid(uuid)}')`);
  }
  return driver;
}

/** Any spelling that Python's UUID takes: upper case, braces, `urn:uuid:`, without dashes. */
function canonicalUuid(text: string): string {
  const hex = text
    .replaceAll("urn:", "")
    .replaceAll("uuid:", "")
    .replace(/^[{}]+|[{}]+$/g, "")
    .replaceAll("-", "")
    .toLowerCase();
  if (!/^[0-9a-f]{32}$/.test(hex)) {
    throw new AgentError("E_NO_DRIVER", "Unexpected <class 'ValueError'>: badly formed hexadecimal UUID string");
  }
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** A handle is given to one call. If that call did not open it, its client would wait for the end for ever. */
function discardUnused(exporter: Exporter, args: readonly unknown[]): void {
  for (const arg of args) {
    if (typeof arg !== "object" || arg === null || !("kind" in arg) || arg.kind !== "client_stream") continue;
    if ("uuid" in arg && typeof arg.uuid === "string") exporter.resources.discard(arg.uuid);
  }
}

async function logged<T>(service: Service, driver: LiveDriver, method: string, run: () => Promise<T>): Promise<T> {
  const operation = beginOperation(service, driver, method);
  try {
    const result = await run();
    operation.completed();
    return result;
  } catch (error) {
    operation.failed(error);
    throw error;
  }
}

/** The words telemetry knows for why a call failed. */
const errorTypes: Partial<Record<ErrorCategory, string>> = {
  "no-such-method": "not_implemented",
  unsupported: "not_implemented",
  invalid: "validation_error",
  timeout: "timeout",
  unavailable: "connection_error",
  io: "device_error",
};

function beginOperation(service: Service, driver: LiveDriver, operation: string) {
  driver.log.info("Operation started", { operation });
  const ended = callBegins(service, driver, operation);
  return {
    completed: () => {
      driver.log.info("Operation completed", { operation, result: "success" });
      ended();
    },
    failed: (error: unknown) => {
      const errorType = errorTypes[toAgentError(error).category] ?? "internal_error";
      driver.log.warn("Operation failed", { operation, result: "failure", error_type: errorType });
      ended(error);
    },
    /** Nobody wants the rest, if there is any. */
    left: () => ended(gone),
  };
}

const gone = new AgentError("E_CANCELLED", "the caller has gone");
