/**
 * A session as an independent gRPC implementation sees it: grpc-js with the generated codecs, for tests of what is
 * on the wire. What our own client makes of it is not tested with this.
 */
import type { TestContext } from "node:test";
import {
  credentials,
  Metadata,
  type CallOptions,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ServiceError,
} from "@grpc/grpc-js";
import {
  ExporterServiceDefinition,
  type GetReportResponse,
  type GetStatusResponse,
  type LogStreamResponse,
  type StreamingDriverCallResponse,
} from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import {
  RouterServiceDefinition,
  type StreamRequest,
  type StreamResponse,
} from "../../proto/gen/jumpstarter/v1/router.ts";
import { grpcClient, type GrpcClient } from "./grpc-client.ts";

export type FrameCall = ClientDuplexStream<StreamRequest, StreamResponse>;
export { Metadata };

export const frame = { data: 0, reset: 3, ping: 6, goaway: 7 } as const;

/** A resource stream with the handle its metadata brought. */
export interface OpenResource {
  readonly call: FrameCall;
  readonly handle: { kind: string; uuid: string; x_jmp_content_encoding: string | null };
  readonly acceptEncoding: string | undefined;
}

export class WireClient {
  readonly exporter: GrpcClient<typeof ExporterServiceDefinition>;
  readonly router: GrpcClient<typeof RouterServiceDefinition>;
  readonly metadata: Metadata;

  constructor(t: TestContext, address: string, metadata = new Metadata()) {
    const target = address.startsWith("/") ? `unix:${address}` : address;
    const insecure = credentials.createInsecure();
    // One connection of its own, which a test may break.
    const options = { "grpc.use_local_subchannel_pool": 1, "grpc.enable_retries": 0 };
    this.exporter = grpcClient(ExporterServiceDefinition, target, insecure, options);
    this.router = grpcClient(RouterServiceDefinition, target, insecure, {
      ...options,
      channelOverride: this.exporter.getChannel(),
    });
    this.metadata = metadata;
    t.after(() => this.close());
  }

  close(): void {
    this.exporter.close();
  }

  report(): Promise<GetReportResponse> {
    return promised((done) => this.exporter.getReport({}, this.metadata, done));
  }

  status(): Promise<GetStatusResponse> {
    return promised((done) => this.exporter.getStatus({}, this.metadata, done));
  }

  /** The uuid of the driver with this name; of the root without one. */
  async uuid(name?: string): Promise<string> {
    const { reports } = await this.report();
    const found = reports.find(({ labels }) => labels["jumpstarter.dev/name"] === name);
    if (found === undefined) throw new Error(`no driver ${name}`);
    return found.uuid;
  }

  async call(uuid: string, method: string, args: unknown[] = [], options: CallOptions = {}): Promise<unknown> {
    const { result } = await promised<{ result: unknown }>((done) => {
      this.exporter.driverCall({ uuid, method, args }, this.metadata, options, done);
    });
    return result;
  }

  streamingCall(uuid: string, method: string, args: unknown[] = []): ClientReadableStream<StreamingDriverCallResponse> {
    return this.exporter.streamingDriverCall({ uuid, method, args }, this.metadata);
  }

  logs(): ClientReadableStream<LogStreamResponse> {
    return this.exporter.logStream({}, this.metadata);
  }

  stream(request: unknown): FrameCall {
    const metadata = this.metadata.clone();
    metadata.set("request", typeof request === "string" ? request : JSON.stringify(request));
    const call = this.router.stream(metadata);
    call.on("error", () => {});
    return call;
  }

  async resource(uuid: string, encoding: string | null = null): Promise<OpenResource> {
    const call = this.stream({ kind: "resource", uuid, x_jmp_content_encoding: encoding });
    const metadata = await new Promise<Metadata>((resolve, reject) => {
      call.once("metadata", resolve);
      call.once("error", reject);
    });
    return {
      call,
      handle: JSON.parse(String(metadata.get("resource")[0])) as OpenResource["handle"],
      acceptEncoding: metadata.get("x_jmp_accept_encoding")[0]?.toString(),
    };
  }
}

function promised<T>(start: (done: (error: ServiceError | null, value?: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    // The call site's stack, not grpc-js's, is what a failing test needs.
    start((error, value) => (error === null ? resolve(value as T) : reject(error)));
  });
}

/** What a call failed with, as `code details`; throws if it succeeded. */
export async function failure(call: Promise<unknown>): Promise<string> {
  try {
    await call;
  } catch (error) {
    const { code, details } = error as ServiceError;
    return `${code} ${details}`;
  }
  throw new Error("the call succeeded");
}

interface Ended<T> {
  readonly code: number;
  readonly details: string;
  readonly messages: T[];
}

/** How an RPC ended: its status, and the frames or messages it brought until then. */
export function ended(call: FrameCall): Promise<Ended<StreamResponse>>;
export function ended<T>(call: ClientReadableStream<T>): Promise<Ended<T>>;
export async function ended<T>(call: ClientReadableStream<T>): Promise<Ended<T>> {
  const messages: T[] = [];
  call.on("data", (message: T) => messages.push(message));
  call.on("error", () => {});
  return new Promise((resolve) => {
    call.on("status", ({ code, details }: { code: number; details: string }) => resolve({ code, details, messages }));
  });
}
