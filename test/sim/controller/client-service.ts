import { status } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { ClientServiceDefinition, type Exporter, type Lease } from "../proto/gen/jumpstarter/client/v1/client.ts";
import type { Auth } from "./auth.ts";
import type { LeaseTable } from "./lease-table.ts";
import type { Service } from "./port.ts";
import { plainError, RpcError, service, type Hooks } from "./rpc.ts";
import { parseSelector, type Selector } from "./selector.ts";
import { key, type ExporterObject, type LeaseObject, type World } from "./world.ts";

export interface ClientServiceParts {
  readonly world: World;
  readonly auth: Auth;
  readonly leases: LeaseTable;
  readonly hooks: Hooks;
  readonly newToken: () => string;
}

/** The half of the controller that clients call. */
export function clientService({ world, auth, leases, hooks, newToken }: ClientServiceParts): Service {
  const findLease = (namespace: string, name: string): LeaseObject => {
    const lease = world.leases.get(key(namespace, name));
    if (!lease) throw plainError(`leases.jumpstarter.dev "${name}" not found`);
    return lease;
  };
  const exporterMessage = (exporter: ExporterObject): Exporter => ({
    name: `namespaces/${exporter.namespace}/exporters/${exporter.name}`,
    labels: exporter.labels,
    online: world.online(exporter),
    status: exporter.status,
    statusMessage: exporter.statusMessage,
    enabled: exporter.enabled,
    deprecatedLabels: {},
  });

  return service(
    ClientServiceDefinition,
    {
      getExporter(request, call) {
        const { namespace, name } = parseName(request.name, "exporters");
        auth.client(call, namespace);
        const exporter = world.exporters.get(key(namespace, name));
        if (!exporter) throw plainError(`exporters.jumpstarter.dev "${name}" not found`);
        return exporterMessage(exporter);
      },
      listExporters(request, call) {
        const namespace = parseNamespace(request.parent);
        auth.client(call, namespace);
        const selector = selectorOf(request.filter);
        const exporters = [...world.exporters.values()].filter(
          (exporter) => exporter.namespace === namespace && selector.matches(exporter.labels),
        );
        return { exporters: exporters.map(exporterMessage), nextPageToken: "" };
      },
      getLease(request, call) {
        const { namespace, name } = parseName(request.name, "leases");
        auth.client(call, namespace);
        return leaseMessage(findLease(namespace, name));
      },
      listLeases(request, call) {
        const namespace = parseNamespace(request.parent);
        auth.client(call, namespace);
        const [selector, tags] = [selectorOf(request.filter), selectorOf(request.tagFilter)];
        const chosen = [...world.leases.values()].filter(
          (lease) =>
            lease.namespace === namespace &&
            !(lease.ended && (request.onlyActive ?? true)) &&
            selector.matches(labelsOf(lease)) &&
            tags.matches(lease.tags),
        );
        return { leases: chosen.map(leaseMessage), nextPageToken: "" };
      },
      createLease(request, call) {
        const wish = request.lease;
        if (!wish) throw new RpcError(status.INVALID_ARGUMENT, "lease is required");
        if (wish.selector === "" && !wish.exporterName) {
          throw new RpcError(status.INVALID_ARGUMENT, "one of selector or exporter_name is required");
        }
        const namespace = parseNamespace(request.parent);
        const client = auth.client(call, namespace);
        selectorOf(wish.selector);
        const name = request.leaseId || randomUUID();
        if (world.leases.has(key(namespace, name))) throw plainError(`leases.jumpstarter.dev "${name}" already exists`);
        const lease = leases.create({
          ...{ namespace, name, client: client.name, selector: wish.selector },
          ...{ tags: wish.tags, context: wish.context, allowDisabled: wish.allowDisabled },
          ...(wish.exporterName && { exporterName: wish.exporterName }),
          ...leaseTimes(wish),
        });
        return leaseMessage(lease);
      },
      updateLease(request, call) {
        const wish = request.lease;
        const { namespace, name } = parseName(wish?.name ?? "", "leases");
        const client = auth.client(call, namespace);
        const lease = findLease(namespace, name);
        if (lease.client !== client.name) throw plainError("UpdateLease permission denied");
        if (wish?.beginTime) {
          if (lease.exporter !== undefined) throw plainError("cannot update BeginTime: lease has already started");
          lease.beginTime = wish.beginTime;
        }
        if (wish?.duration) lease.durationMs = milliseconds(wish.duration);
        if (wish?.endTime) lease.endTime = wish.endTime;
        leases.reschedule(lease);
        if (wish?.client) {
          if (lease.exporter === undefined) throw plainError("cannot transfer lease: lease has not started yet");
          if (lease.ended) throw plainError("cannot transfer lease: lease has already ended");
          const to = parseName(wish.client, "clients");
          if (to.namespace !== namespace) throw plainError("cannot transfer lease to client in different namespace");
          if (!world.clients.has(key(to.namespace, to.name))) {
            throw plainError(`target client not found: clients.jumpstarter.dev "${to.name}" not found`);
          }
          leases.transfer(lease, to.name);
        }
        world.changed();
        return leaseMessage(lease);
      },
      deleteLease(request, call) {
        const { namespace, name } = parseName(request.name, "leases");
        const client = auth.client(call, namespace);
        const lease = findLease(namespace, name);
        if (lease.client !== client.name) throw plainError("DeleteLease permission denied");
        const released = lease.conditions.some(({ reason }) => reason === "Released");
        if (released) {
          throw new RpcError(status.FAILED_PRECONDITION, `lease "${request.name}" has already been released`);
        }
        leases.end(lease, "Released");
        return {};
      },
      rotateToken(request, call) {
        const client = auth.client(call, parseNamespace(request.parent));
        const token = newToken();
        client.tokens.add(token);
        client.issued = token;
        return { token, expiry: new Date(Date.now() + 365 * 24 * 3600_000) };
      },
    },
    hooks,
  );
}

function leaseMessage(lease: LeaseObject): Lease {
  const until = lease.effectiveEndTime ?? new Date();
  const begun = lease.effectiveBeginTime;
  return {
    name: `namespaces/${lease.namespace}/leases/${lease.name}`,
    selector: lease.selector.toString(),
    duration: duration(lease.durationMs),
    effectiveDuration: begun && duration(until.getTime() - begun.getTime()),
    beginTime: lease.beginTime,
    effectiveBeginTime: begun,
    endTime: lease.endTime,
    effectiveEndTime: begun && lease.effectiveEndTime,
    client: `namespaces/${lease.namespace}/clients/${lease.client}`,
    exporter: lease.exporter && `namespaces/${lease.namespace}/exporters/${lease.exporter}`,
    conditions: lease.conditions.map(({ type, status, reason, message, since }) => ({
      ...{ type, status: status ? "True" : "False", reason, message, observedGeneration: 1n },
      lastTransitionTime: { seconds: BigInt(Math.floor(since.getTime() / 1000)), nanos: 0 },
    })),
    exporterName: lease.exporterName,
    tags: lease.tags,
    allowDisabled: lease.allowDisabled,
    context: lease.context,
    deprecatedLabels: {},
  };
}

/** The labels that the real controller gives a lease: what its selector asks for by equality. */
function labelsOf(lease: LeaseObject): Record<string, string> {
  return Object.fromEntries(
    lease.selector.requirements.filter(({ plain }) => plain).map(({ key, values }) => [key, values[0] ?? ""]),
  );
}

function leaseTimes({ beginTime, endTime, duration: wanted }: Lease) {
  let durationMs = wanted && milliseconds(wanted);
  let begin = beginTime;
  if (beginTime && endTime) {
    const between = endTime.getTime() - beginTime.getTime();
    if (durationMs && durationMs !== between) throw plainError("duration conflicts with begin_time and end_time");
    durationMs = between;
  } else if (endTime && durationMs) begin = new Date(endTime.getTime() - durationMs);
  if (durationMs === undefined) {
    throw plainError("duration is required (must specify Duration, or both BeginTime and EndTime)");
  }
  if (durationMs <= 0) throw plainError(`duration must be positive, got ${durationMs / 1000}s`);
  return { durationMs, ...(begin && { beginTime: begin }), ...(endTime && { endTime }) };
}

function selectorOf(text: string): Selector {
  try {
    return parseSelector(text);
  } catch (error) {
    throw plainError((error as Error).message);
  }
}

function milliseconds({ seconds, nanos }: { seconds: bigint; nanos: number }): number {
  return Number(seconds) * 1000 + nanos / 1e6;
}

function duration(ms: number) {
  return { seconds: BigInt(Math.floor(ms / 1000)), nanos: Math.round((ms % 1000) * 1e6) };
}

function parseNamespace(text: string): string {
  const [first, namespace, ...rest] = text.split("/");
  if (first !== "namespaces" || namespace === undefined || rest.length > 0) {
    throw new RpcError(status.INVALID_ARGUMENT, `invalid identifier "${text}", expecting "namespaces/NAME"`);
  }
  return namespace;
}

function parseName(text: string, kind: string): { namespace: string; name: string } {
  const [first, namespace, third, name, ...rest] = text.split("/");
  if (first !== "namespaces" || namespace === undefined || third !== kind || name === undefined || rest.length > 0) {
    const expected = `namespaces/NAMESPACE/${kind}/NAME`;
    throw new RpcError(status.INVALID_ARGUMENT, `invalid identifier "${text}", expecting "${expected}"`);
  }
  return { namespace, name };
}
