import {
  Metadata,
  status,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import type { Faults } from "./faults.ts";
import type { Records } from "./records.ts";

/** What a handler throws to end its RPC with that status. */
export class RpcError extends Error {
  readonly code: status;
  readonly details: string;
  constructor(code: status, details: string) {
    super(details);
    this.code = code;
    this.details = details;
  }
}

/** A Go service that returns a plain error ends its RPC with UNKNOWN. */
export function plainError(details: string): RpcError {
  return new RpcError(status.UNKNOWN, details);
}

/** What a handler knows of the call besides its request. */
export interface Call {
  readonly rpc: string;
  readonly metadata: Metadata;
  /** Aborted when the caller is gone. */
  readonly signal: AbortSignal;
  /** Set by the authentication, for faults that are meant for one exporter and for the records. */
  caller: string | undefined;
}

export interface Sink<R> {
  readonly signal: AbortSignal;
  send(message: R): void;
}

interface Message<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

interface GeneratedMethod {
  readonly name: string;
  // The messages differ from method to method.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly requestType: Message<any>;
  readonly requestStream: boolean;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly responseType: Message<any>;
  readonly responseStream: boolean;
}

interface GeneratedService {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, GeneratedMethod>>;
}

type Decoded<M> = M extends { decode(bytes: Uint8Array): infer T } ? T : never;

type Handler<M extends GeneratedMethod> = M extends { responseStream: true }
  ? (request: Decoded<M["requestType"]>, call: Call, out: Sink<Decoded<M["responseType"]>>) => Promise<void>
  : (
      request: Decoded<M["requestType"]>,
      call: Call,
    ) => Decoded<M["responseType"]> | Promise<Decoded<M["responseType"]>>;

/** One function per RPC that is served; RPCs that are left out answer UNIMPLEMENTED. */
export type Handlers<S extends GeneratedService> = { [M in keyof S["methods"]]?: Handler<S["methods"][M]> };

export interface Hooks {
  readonly faults: Faults;
  readonly records: Records;
}

/** The grpc-js halves of a service: what its messages look like, and what answers them. */
export function service<S extends GeneratedService>(generated: S, handlers: Handlers<S>, hooks: Hooks) {
  const implementation: UntypedServiceImplementation = {};
  for (const [name, handler] of Object.entries(handlers) as [string, Handler<GeneratedMethod>][]) {
    const method = generated.methods[name] as GeneratedMethod;
    implementation[name] = method.responseStream
      ? serverStream(method.name, handler, hooks)
      : unary(method.name, handler as UnaryHandler, hooks);
  }
  return { definition: definitionOf(generated), implementation };
}

type UnaryHandler = (request: unknown, call: Call) => unknown;
type StreamHandler = (request: unknown, call: Call, out: Sink<unknown>) => Promise<void>;

function unary(rpc: string, handler: UnaryHandler, { faults, records }: Hooks) {
  const serve = async (
    grpc: ServerUnaryCall<unknown, unknown>,
    answer: (error: Partial<RpcError> | null, value?: unknown) => void,
  ) => {
    const call = callOf(rpc, grpc);
    const record = records.call(rpc, call);
    try {
      const fault = faults.take(rpc, call);
      await fault?.before();
      const response = await handler(grpc.request, call);
      await fault?.after();
      record.end(status.OK);
      answer(null, response);
    } catch (error) {
      const refusal = asRpcError(error, rpc, records);
      record.end(refusal.code, refusal.details);
      answer({ code: refusal.code, details: refusal.details });
    }
  };
  return (...args: Parameters<typeof serve>) => void serve(...args);
}

function serverStream(rpc: string, handler: StreamHandler, { faults, records }: Hooks) {
  const serve = async (grpc: ServerWritableStream<unknown, unknown>) => {
    const call = callOf(rpc, grpc);
    const record = records.call(rpc, call);
    const send = (message: unknown) => {
      if (!call.signal.aborted) grpc.write(message);
    };
    try {
      await faults.take(rpc, call)?.before();
      await handler(grpc.request, call, { signal: call.signal, send });
      record.end(call.signal.aborted ? status.CANCELLED : status.OK);
      grpc.end();
    } catch (error) {
      const refusal = asRpcError(error, rpc, records);
      record.end(refusal.code, refusal.details);
      grpc.emit("error", { code: refusal.code, details: refusal.details });
    }
  };
  return (grpc: ServerWritableStream<unknown, unknown>) => void serve(grpc);
}

export function callOf(
  rpc: string,
  grpc: { metadata: Metadata; cancelled: boolean; on(event: "cancelled", listener: () => void): unknown },
): Call {
  const gone = new AbortController();
  if (grpc.cancelled) gone.abort();
  grpc.on("cancelled", () => gone.abort());
  return { rpc, metadata: grpc.metadata, signal: gone.signal, caller: undefined };
}

export function asRpcError(error: unknown, rpc: string, records: Records): RpcError {
  if (error instanceof RpcError) return error;
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  records.problems.push(`${rpc}: ${text}`);
  return new RpcError(status.INTERNAL, `the sim failed: ${text}`);
}

function definitionOf(generated: GeneratedService): ServiceDefinition {
  return Object.fromEntries(
    Object.entries(generated.methods).map(([name, method]) => [
      name,
      {
        path: `/${generated.fullName}/${method.name}`,
        requestStream: method.requestStream,
        responseStream: method.responseStream,
        requestSerialize: (message: unknown) => Buffer.from(method.requestType.encode(message).finish()),
        requestDeserialize: (bytes: Buffer) => method.requestType.decode(bytes) as unknown,
        responseSerialize: (message: unknown) => Buffer.from(method.responseType.encode(message).finish()),
        responseDeserialize: (bytes: Buffer) => method.responseType.decode(bytes) as unknown,
      },
    ]),
  );
}
