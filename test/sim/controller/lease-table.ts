import { randomUUID } from "node:crypto";
import { ExporterStatus } from "../../../proto/gen/jumpstarter/v1/common.ts";
import type { Features } from "./releases.ts";
import { parseSelector } from "./selector.ts";
import { key, type ConditionType, type ExporterObject, type LeaseObject, type World } from "./world.ts";

export interface LeaseWish {
  readonly client: string;
  readonly namespace?: string;
  /** Default: a fresh UUID. */
  readonly name?: string;
  readonly selector?: string;
  readonly exporterName?: string;
  /** Default: half an hour. */
  readonly durationMs?: number;
  readonly beginTime?: Date;
  readonly endTime?: Date;
  readonly tags?: Record<string, string>;
  readonly context?: Record<string, string>;
  readonly allowDisabled?: boolean;
}

/** Creates, places, transfers and ends leases by the rules of the real controller. */
export interface LeaseTable {
  /** Adds a lease and places it if an exporter is free; otherwise it waits for one. */
  create(wish: LeaseWish): LeaseObject;
  /** Adds a lease that has its exporter at once, whatever that does. Ends the lease that the exporter had. */
  assign(wish: LeaseWish & { readonly exporter: string }): LeaseObject;
  end(lease: LeaseObject, reason: "Released" | "Expired"): void;
  transfer(lease: LeaseObject, client: string): void;
  /** Sets the timers anew after `durationMs`, `beginTime` or `endTime` of the lease was changed. */
  reschedule(lease: LeaseObject): void;
  /** Stops all timers. */
  close(): void;
}

export function createLeaseTable(world: World, namespace: string, { leasesNeedReady }: Features): LeaseTable {
  const timers = new Map<LeaseObject, NodeJS.Timeout>();

  const end = (lease: LeaseObject, reason: "Released" | "Expired") => {
    if (lease.ended) return;
    const message = reason === "Released" ? "The lease was marked for release" : "The lease has expired";
    setCondition(lease, "Ready", false, reason, message);
    finish(lease);
    world.changed();
  };
  const finish = (lease: LeaseObject) => {
    lease.ended = true;
    world.activeLeases.delete(lease);
    lease.effectiveEndTime = new Date();
    clearTimeout(timers.get(lease));
    timers.delete(lease);
  };
  const acquire = (lease: LeaseObject, exporter: ExporterObject) => {
    lease.exporter = exporter.name;
    lease.effectiveBeginTime = new Date();
    setCondition(lease, "Ready", true, "Ready", "An exporter has been acquired for the client");
    reschedule(lease);
  };
  const reschedule = (lease: LeaseObject) => {
    clearTimeout(timers.get(lease));
    timers.delete(lease);
    if (lease.ended) return;
    const at = (moment: number, action: () => void) => {
      // Timers count in 31 bits; a lease that ends after that ends by hand.
      const delayMs = Math.min(Math.max(0, moment - Date.now()), 0x7fffffff);
      timers.set(lease, setTimeout(action, delayMs).unref());
    };
    if (lease.effectiveBeginTime === undefined) {
      if (lease.beginTime) at(lease.beginTime.getTime(), () => world.changed());
      return;
    }
    const begin = lease.beginTime ?? lease.effectiveBeginTime;
    at(lease.endTime?.getTime() ?? begin.getTime() + lease.durationMs, () => end(lease, "Expired"));
  };
  const unsatisfiable = (lease: LeaseObject, type: "Unsatisfiable" | "Invalid", reason: string, message: string) => {
    setCondition(lease, type, true, reason, message);
    finish(lease);
    world.changed();
  };

  /** One look at a lease without exporter, in the order of questions that the real controller asks. */
  const place = (lease: LeaseObject) => {
    if (lease.beginTime && lease.beginTime.getTime() > Date.now()) return;
    if (lease.selector.requirements.length === 0 && lease.exporterName === undefined) {
      unsatisfiable(lease, "Invalid", "InvalidSelector", "The selector for the lease is empty, a selector is required");
      return;
    }
    const matching = matchingExporters(lease);
    if (matching === undefined) return;
    if (matching.length === 0) {
      const none = "none of them are approved by any policy for your client";
      const message = `While there are 0 exporters matching the selector, ${none}`;
      unsatisfiable(lease, "Unsatisfiable", "NoAccess", message);
      return;
    }
    const first = (exporters: ExporterObject[]) => exporters[0]?.name ?? "";
    const online = matching.filter((exporter) => exporter.devices !== null && world.online(exporter));
    if (online.length === 0) {
      const message = `While there are ${matching.length} available exporters (i.e. ${first(matching)}), none of them are online`;
      pending(lease, "Offline", message);
      return;
    }
    const free = online.filter((exporter) => world.leaseOf(exporter) === undefined);
    if (free.length === 0) {
      const message = `There are ${online.length} approved exporters, (i.e. ${first(online)}) but all of them are already leased`;
      pending(lease, "NotAvailable", message);
      return;
    }
    const ready = free.filter(
      ({ status }) =>
        !leasesNeedReady ||
        status === ExporterStatus.EXPORTER_STATUS_AVAILABLE ||
        status === ExporterStatus.EXPORTER_STATUS_UNSPECIFIED,
    );
    const chosen = ready.sort((a, b) => (a.name < b.name ? -1 : 1))[0];
    if (!chosen) {
      const message = `There are ${free.length} online exporters, but none are ready (still cleaning up previous lease)`;
      pending(lease, "NotReady", message);
      return;
    }
    acquire(lease, chosen);
    world.changed();
  };
  const matchingExporters = (lease: LeaseObject): ExporterObject[] | undefined => {
    const refuse = (reason: string, message: string) => {
      unsatisfiable(lease, "Unsatisfiable", reason, message);
      return undefined;
    };
    if (lease.exporterName !== undefined) {
      const exporter = world.exporters.get(key(lease.namespace, lease.exporterName));
      if (!exporter) return refuse("ExporterNotFound", `Requested exporter ${lease.exporterName} was not found`);
      if (!lease.selector.matches(exporter.labels)) {
        const message = `Requested exporter ${exporter.name} does not match selector ${lease.selector.toString()}`;
        return refuse("SelectorMismatch", message);
      }
      if (!exporter.enabled && !lease.allowDisabled) {
        return refuse("ExporterDisabled", `Requested exporter ${exporter.name} is disabled`);
      }
      return [exporter];
    }
    const listed = [...world.exporters.values()].filter(
      (exporter) => exporter.namespace === lease.namespace && lease.selector.matches(exporter.labels),
    );
    const enabled = listed.filter((exporter) => exporter.enabled);
    if (enabled.length === 0 && listed.length > 0) {
      return refuse("AllDisabled", `All ${listed.length} exporters matching the selector are disabled`);
    }
    return enabled;
  };
  const pending = (lease: LeaseObject, reason: string, message: string) => {
    if (setCondition(lease, "Pending", true, reason, message)) world.changed();
  };
  // Last, so that an exporter hears of the end of one lease before it gets the next.
  const unwatch = world.watch(() => {
    for (const lease of [...world.activeLeases]) if (lease.exporter === undefined) place(lease);
  }, "last");

  const add = (wish: LeaseWish): LeaseObject => {
    const lease: LeaseObject = {
      namespace: wish.namespace ?? namespace,
      name: wish.name ?? randomUUID(),
      client: wish.client,
      selector: parseSelector(wish.selector ?? ""),
      exporterName: wish.exporterName,
      exporter: undefined,
      durationMs: wish.durationMs ?? 30 * 60_000,
      beginTime: wish.beginTime,
      endTime: wish.endTime,
      effectiveBeginTime: undefined,
      effectiveEndTime: undefined,
      ended: false,
      conditions: [],
      tags: { ...wish.tags },
      context: { ...wish.context },
      allowDisabled: wish.allowDisabled ?? false,
    };
    const name = key(lease.namespace, lease.name);
    if (world.leases.has(name)) throw new Error(`leases.jumpstarter.dev "${lease.name}" already exists`);
    world.leases.set(name, lease);
    world.activeLeases.add(lease);
    return lease;
  };
  return {
    create(wish) {
      const lease = add(wish);
      reschedule(lease);
      world.changed();
      return lease;
    },
    assign: (wish) =>
      world.batch(() => {
        const exporter = world.exporter(wish.exporter);
        const old = world.leaseOf(exporter);
        if (old) end(old, "Released");
        const lease = add({ ...wish, namespace: exporter.namespace });
        acquire(lease, exporter);
        world.changed();
        return lease;
      }),
    end,
    transfer(lease, client) {
      lease.client = client;
      world.changed();
    },
    reschedule,
    close() {
      unwatch();
      for (const timer of timers.values()) clearTimeout(timer);
      timers.clear();
    },
  };
}

/** Answers whether that changed anything. */
function setCondition(lease: LeaseObject, type: ConditionType, status: boolean, reason: string, message: string) {
  const known = lease.conditions.find((condition) => condition.type === type);
  if (!known) {
    lease.conditions.push({ type, status, reason, message, since: new Date() });
    return true;
  }
  if (known.status === status && known.reason === reason && known.message === message) return false;
  if (known.status !== status) known.since = new Date();
  Object.assign(known, { status, reason, message });
  return true;
}
