import { status } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";
import { ExporterStatus } from "../../../proto/gen/jumpstarter/v1/common.ts";
import { ControllerServiceDefinition, type DialResponse } from "../../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import type { Auth } from "./auth.ts";
import type { LeaseTable } from "./lease-table.ts";
import type { ListenQueues } from "./listen-queues.ts";
import type { Service } from "./port.ts";
import { features, type Release } from "./releases.ts";
import type { Router } from "./router.ts";
import { plainError, RpcError, service, type Call, type Hooks } from "./rpc.ts";
import type { StatusStreams } from "./status-streams.ts";
import { key, type ExporterObject, type LeaseObject, type World } from "./world.ts";

export interface ControllerParts {
  readonly release: Release;
  readonly world: World;
  readonly auth: Auth;
  readonly leases: LeaseTable;
  readonly statusStreams: StatusStreams;
  readonly listenQueues: ListenQueues;
  readonly router: Router;
  readonly hooks: Hooks;
  /** How long a Dial waits for an exporter that is still Available. */
  readonly dialWaitMs: number;
  readonly dialsAwaitListen: boolean;
  routerEndpoint(): string;
  telemetryEndpoint(): { endpoint: string; certificate: string; minSeverity: string } | undefined;
}

/** The half of the controller that exporters call, and Dial. */
export function controllerService(parts: ControllerParts): Service {
  const { world, auth, leases, statusStreams, listenQueues, router, hooks } = parts;
  const { records } = hooks;
  const can = features(parts.release);
  const ownPrefix = "jumpstarter.dev/";

  const findLease = (namespace: string, name: string): LeaseObject => {
    const lease = world.leases.get(key(namespace, name));
    if (!lease) throw plainError(`leases.jumpstarter.dev "${name}" not found`);
    return lease;
  };
  const releaseAsExporter = (exporter: ExporterObject, name: string) => {
    const lease = world.leases.get(key(exporter.namespace, name));
    if (!lease) throw new RpcError(status.NOT_FOUND, `lease ${name} not found`);
    if (lease.exporter !== exporter.name) {
      throw new RpcError(status.FAILED_PRECONDITION, `lease ${name} is not held by exporter ${exporter.name}`);
    }
    leases.end(lease, "Released");
  };
  const dialable = async (exporter: ExporterObject, call: Call) => {
    if (!can.dialChecksStatus) return;
    const deadlineMs = performance.now() + (can.dialWaits ? parts.dialWaitMs : 0);
    for (let delayMs = 500; ; delayMs = Math.min(delayMs * 2, 3000)) {
      const refusal = whyNotDialable(exporter.status);
      if (refusal === undefined) return;
      const transient = exporter.status === ExporterStatus.EXPORTER_STATUS_AVAILABLE;
      if (!transient || performance.now() + delayMs > deadlineMs) {
        throw new RpcError(status.FAILED_PRECONDITION, refusal);
      }
      await sleep(delayMs, undefined, { signal: call.signal, ref: false }).catch(() => {
        throw new RpcError(status.CANCELLED, "context canceled");
      });
    }
  };

  return service(
    ControllerServiceDefinition,
    {
      register({ labels, reports }, call) {
        const exporter = auth.exporter(call);
        records.registers.push({ atMs: records.nowMs(), exporter: exporter.name, labels, reports });
        const kept = Object.entries(exporter.labels).filter(([name]) => !name.startsWith(ownPrefix));
        const sent = Object.entries(labels).filter(([name]) => name.startsWith(ownPrefix));
        exporter.labels = Object.fromEntries([...kept, ...sent]);
        exporter.devices = reports.map(({ uuid, parentUuid, labels }) => ({ uuid, parentUuid, labels }));
        world.changed();
        return { uuid: exporter.uid };
      },
      unregister({ reason }, call) {
        const exporter = auth.exporter(call);
        records.unregisters.push({ atMs: records.nowMs(), exporter: exporter.name, reason });
        exporter.devices = null;
        if (can.unregisterMarksOffline) {
          exporter.status = ExporterStatus.EXPORTER_STATUS_OFFLINE;
          exporter.statusMessage = reason || "Exporter unregistered";
        }
        world.changed();
        return {};
      },
      ...(can.reportStatus && {
        reportStatus: ({ status: reported, message, releaseLease }, call) => {
          const exporter = auth.exporter(call);
          const lease = world.leaseOf(exporter);
          const name = statusName(reported);
          records.statuses.push({
            ...{ atMs: records.nowMs(), exporter: exporter.name, status: reported, name, message },
            ...{ releaseLease: releaseLease ?? false, lease: lease?.name },
          });
          world.batch(() => {
            exporter.status = reported;
            exporter.statusMessage = message ?? "";
            exporter.lastSeenMs = performance.now();
            if (releaseLease && lease) leases.end(lease, "Released");
            world.changed();
          });
          return {};
        },
      }),
      async listen({ leaseName }, call, out) {
        const exporter = auth.exporter(call);
        if (leaseName === "") throw plainError("empty lease name");
        if (findLease(exporter.namespace, leaseName).exporter !== exporter.name) throw plainError("permission denied");
        await listenQueues.serve(exporter.name, leaseName, call, out);
      },
      status: (_, call, out) => statusStreams.serve(auth.exporter(call), call, out),
      async dial({ leaseName }, call): Promise<DialResponse> {
        const client = auth.client(call);
        if (leaseName === "") throw plainError("empty lease name");
        const lease = findLease(client.namespace, leaseName);
        if (lease.client !== client.name) throw plainError("permission denied");
        if (lease.exporter === undefined) throw plainError("lease not active");
        const exporter = world.exporters.get(key(lease.namespace, lease.exporter));
        if (!exporter) throw plainError(`exporters.jumpstarter.dev "${lease.exporter}" not found`);
        await dialable(exporter, call);
        const { stream, token } = router.token();
        const response = { routerEndpoint: parts.routerEndpoint(), routerToken: token };
        while (parts.dialsAwaitListen && !listenQueues.hasListener(leaseName)) {
          await sleep(50, undefined, { signal: call.signal, ref: false });
        }
        await listenQueues.push(leaseName, response, call.signal);
        records.dials.push({ atMs: records.nowMs(), client: client.name, lease: leaseName, stream });
        return response;
      },
      releaseLease({ name }, call) {
        const kind = auth.isExporter(call) ? "Exporter" : "Client";
        if (kind === "Exporter" && can.exporterReleasesLease) {
          const exporter = auth.exporter(call);
          records.releases.push({ atMs: records.nowMs(), caller: exporter.name, kind, lease: name });
          releaseAsExporter(exporter, name);
          return {};
        }
        const client = auth.client(call);
        const lease = findLease(client.namespace, name);
        if (lease.client !== client.name) throw plainError("ReleaseLease permission denied");
        records.releases.push({ atMs: records.nowMs(), caller: client.name, kind, lease: name });
        leases.end(lease, "Released");
        return {};
      },
      ...(can.serviceEndpoints && {
        getServiceEndpoints: (_, call) => {
          auth.exporter(call);
          const endpoint = parts.telemetryEndpoint();
          return { telemetryEndpoints: endpoint ? [endpoint] : [] };
        },
      }),
    },
    hooks,
  );
}

/** `LEASE_READY` for EXPORTER_STATUS_LEASE_READY. */
export function statusName(value: ExporterStatus): string {
  const found = Object.entries(ExporterStatus).find(([, number]) => number === value)?.[0];
  return found?.replace("EXPORTER_STATUS_", "") ?? String(value);
}

/** Texts that clients match. */
function whyNotDialable(value: ExporterStatus): string | undefined {
  switch (value) {
    case ExporterStatus.EXPORTER_STATUS_OFFLINE:
      return "exporter is offline";
    case ExporterStatus.EXPORTER_STATUS_AVAILABLE:
      return "exporter is not ready (status: Available)";
    case ExporterStatus.EXPORTER_STATUS_BEFORE_LEASE_HOOK_FAILED:
      return "exporter beforeLease hook failed";
    case ExporterStatus.EXPORTER_STATUS_AFTER_LEASE_HOOK_FAILED:
      return "exporter afterLease hook failed";
    case ExporterStatus.UNRECOGNIZED:
    case ExporterStatus.EXPORTER_STATUS_UNSPECIFIED:
    case ExporterStatus.EXPORTER_STATUS_BEFORE_LEASE_HOOK:
    case ExporterStatus.EXPORTER_STATUS_LEASE_READY:
    case ExporterStatus.EXPORTER_STATUS_AFTER_LEASE_HOOK:
      return undefined;
  }
}
