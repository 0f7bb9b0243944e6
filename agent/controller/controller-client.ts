import {
  ControllerServiceDefinition,
  type DriverInstanceReport,
  type GetServiceEndpointsResponse,
  type ListenResponse,
  type StatusResponse,
} from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { hostPort } from "../client/address.ts";
import type { CallOptions } from "../client/channel.ts";
import { rpcMethod, type RpcMethod } from "../client/rpc-method.ts";
import { exporterStates, type ExporterState } from "../session/status.ts";
import type { ChannelPool } from "./channel-pool.ts";
import type { ControllerSettings } from "./settings.ts";

/** What an exporter asks of its controller. One plain attempt each: whoever calls knows when to try again. */
export interface ControllerClient {
  register(
    request: {
      readonly labels: Readonly<Record<string, string>>;
      readonly reports: readonly DriverInstanceReport[];
    },
    signal?: AbortSignal,
  ): Promise<void>;
  unregister(reason: string, signal?: AbortSignal): Promise<void>;
  reportStatus(report: StatusReport, signal?: AbortSignal): Promise<void>;
  releaseLease(lease: string, signal?: AbortSignal): Promise<void>;
  /** What the controller says of the exporter: now, and whenever it changes. */
  status(signal: AbortSignal): AsyncGenerator<StatusResponse, void, undefined>;
  /** The clients of a lease that want to be met at a router. */
  listen(lease: string, signal: AbortSignal): AsyncGenerator<ListenResponse, void, undefined>;
  serviceEndpoints(signal?: AbortSignal): Promise<GetServiceEndpointsResponse>;
  /** HOST:PORT, for people. */
  readonly address: string;
  /** What this controller was found not to have. */
  readonly lacks: Set<"ReleaseLease">;
}

export interface StatusReport {
  readonly status: ExporterState;
  readonly message: string;
  /** Asks a controller that has no ReleaseLease for exporters to end the lease. */
  readonly releaseLease?: boolean;
}

export interface ControllerClientOptions {
  /** Asked at each call, so that a token that was renewed counts from the next attempt on. */
  readonly settings: () => ControllerSettings;
  readonly channels: ChannelPool;
}

const unaryDeadlineMs = 30_000;

/** A report that is lost holds up newer ones, and clients that wait for them; it is sent again soon. */
const reportDeadlineMs = 10_000;

/** A controller says at once how things stand; one that has taken the call and says nothing is not well. */
const firstStatusMs = 30_000;

export function createControllerClient({ settings, channels }: ControllerClientOptions): ControllerClient {
  const service = ControllerServiceDefinition;

  async function* stream<Q, R>(
    method: RpcMethod<Q, R>,
    request: Q,
    options: CallOptions,
  ): AsyncGenerator<R, void, undefined> {
    const now = settings();
    const { channel, release } = channels.acquire(now.endpoint, now.channel);
    try {
      yield* channel.serverStream(method, request, { ...options, metadata: credentials(now) });
    } finally {
      release();
    }
  }

  async function unary<Q, R>(
    method: RpcMethod<Q, R>,
    request: Q,
    what: string,
    signal?: AbortSignal,
    deadlineMs = unaryDeadlineMs,
  ): Promise<R> {
    const now = settings();
    const { channel, release } = channels.acquire(now.endpoint, now.channel);
    try {
      return await channel.unary(method, request, { what, signal, deadlineMs, metadata: credentials(now) });
    } finally {
      release();
    }
  }

  return {
    get address() {
      return hostPort(settings().endpoint);
    },
    lacks: new Set(),
    async register({ labels, reports }, signal) {
      const request = { labels: { ...labels }, reports: [...reports] };
      await unary(rpcMethod(service, "register"), request, "Register", signal);
    },
    async unregister(reason, signal) {
      await unary(rpcMethod(service, "unregister"), { reason }, "Unregister", signal);
    },
    async reportStatus({ status, message, releaseLease }, signal) {
      const request = { status: exporterStates[status], message, releaseLease };
      await unary(rpcMethod(service, "reportStatus"), request, "ReportStatus", signal, reportDeadlineMs);
    },
    async releaseLease(name, signal) {
      await unary(rpcMethod(service, "releaseLease"), { name }, "ReleaseLease", signal);
    },
    status: (signal) =>
      stream(rpcMethod(service, "status"), {}, { what: "Status", signal, firstAnswerMs: firstStatusMs }),
    listen: (leaseName, signal) => stream(rpcMethod(service, "listen"), { leaseName }, { what: "Listen", signal }),
    serviceEndpoints: (signal) => unary(rpcMethod(service, "getServiceEndpoints"), {}, "GetServiceEndpoints", signal),
  };
}

function credentials({ namespace, name, token }: ControllerSettings): Record<string, string> {
  return {
    "jumpstarter-kind": "Exporter",
    "jumpstarter-namespace": namespace,
    "jumpstarter-name": name,
    authorization: `Bearer ${token}`,
  };
}
