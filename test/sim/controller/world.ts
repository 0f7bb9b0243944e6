import { randomUUID } from "node:crypto";
import { ExporterStatus } from "../../../proto/gen/jumpstarter/v1/common.ts";
import type { DriverInstanceReport } from "../../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import type { Selector } from "./selector.ts";

/** What a cluster would keep about an exporter. */
export interface ExporterObject {
  readonly namespace: string;
  readonly name: string;
  uid: string;
  /** Labels set by the lab's administrator, which no Register touches unless they begin with jumpstarter.dev/. */
  labels: Record<string, string>;
  enabled: boolean;
  /** What it registered; null before Register and after Unregister. */
  devices: Pick<DriverInstanceReport, "uuid" | "parentUuid" | "labels">[] | null;
  /** UNSPECIFIED: never reported, or cleared because the exporter came back. */
  status: ExporterStatus;
  statusMessage: string;
  /** Milliseconds of performance.now(); null: never. */
  lastSeenMs: number | null;
  /** Status streams that are open now. */
  statusStreams: number;
  /** Tokens that are accepted. */
  tokens: Set<string>;
  /** The token that was issued last, accepted or not. */
  issued: string;
}

export interface ClientObject {
  readonly namespace: string;
  readonly name: string;
  tokens: Set<string>;
  issued: string;
}

export type ConditionType = "Pending" | "Ready" | "Unsatisfiable" | "Invalid";

export interface ConditionObject {
  readonly type: ConditionType;
  status: boolean;
  reason: string;
  message: string;
  since: Date;
}

export interface LeaseObject {
  readonly namespace: string;
  readonly name: string;
  client: string;
  readonly selector: Selector;
  /** The exporter that was asked for by name. */
  readonly exporterName: string | undefined;
  /** The exporter that it got. */
  exporter: string | undefined;
  durationMs: number;
  beginTime: Date | undefined;
  endTime: Date | undefined;
  effectiveBeginTime: Date | undefined;
  effectiveEndTime: Date | undefined;
  ended: boolean;
  readonly conditions: ConditionObject[];
  readonly tags: Record<string, string>;
  readonly context: Record<string, string>;
  readonly allowDisabled: boolean;
}

/** All objects of the lab, and the news that one of them has changed. */
export interface World {
  readonly exporters: Map<string, ExporterObject>;
  readonly clients: Map<string, ClientObject>;
  readonly leases: Map<string, LeaseObject>;
  /** Those that have not ended, in the order in which they were made. */
  readonly activeLeases: Set<LeaseObject>;
  exporter(name: string): ExporterObject;
  client(name: string): ClientObject;
  lease(name: string): LeaseObject;
  /** The lease that an exporter serves now. */
  leaseOf(exporter: ExporterObject): LeaseObject | undefined;
  online(exporter: ExporterObject): boolean;
  changed(): void;
  /** Does several things of which watchers see only the result. */
  batch<T>(change: () => T): T;
  /** Calls back after each change until the function it returns is called. `last`: after all others. */
  watch(callback: () => void, when?: "last"): () => void;
}

export function key(namespace: string, name: string): string {
  return `${namespace}/${name}`;
}

export function createWorld(namespace: string, offlineAfterMs: number): World {
  const watchers = new Set<() => void>();
  const lastWatchers = new Set<() => void>();
  let depth = 0;
  let dirty = false;
  const find = <T>(map: Map<string, T>, kind: string, name: string): T => {
    const object = map.get(name.includes("/") ? name : key(namespace, name));
    if (!object) throw new Error(`the lab has no ${kind} ${name}`);
    return object;
  };
  const world: World = {
    exporters: new Map(),
    clients: new Map(),
    leases: new Map(),
    activeLeases: new Set(),
    exporter: (name) => find(world.exporters, "exporter", name),
    client: (name) => find(world.clients, "client", name),
    lease: (name) => find(world.leases, "lease", name),
    leaseOf(exporter) {
      let found: LeaseObject | undefined;
      for (const lease of world.activeLeases) {
        if (lease.namespace === exporter.namespace && lease.exporter === exporter.name) found = lease;
      }
      return found;
    },
    online({ status, statusStreams, lastSeenMs }) {
      if (status === ExporterStatus.EXPORTER_STATUS_OFFLINE) return false;
      return statusStreams > 0 || (lastSeenMs !== null && performance.now() - lastSeenMs <= offlineAfterMs);
    },
    changed() {
      dirty = true;
      if (depth > 0) return;
      // A watcher may itself change something; each change reaches all watchers before the next one does.
      depth++;
      try {
        for (let rounds = 0; dirty; rounds++) {
          if (rounds > 1000) throw new Error("the lab's objects never come to rest");
          dirty = false;
          for (const watcher of [...watchers, ...lastWatchers]) watcher();
        }
      } finally {
        depth--;
      }
    },
    batch(change) {
      depth++;
      try {
        return change();
      } finally {
        depth--;
        if (dirty) world.changed();
      }
    },
    watch(callback, when) {
      const set = when === "last" ? lastWatchers : watchers;
      set.add(callback);
      return () => set.delete(callback);
    },
  };
  return world;
}

export function newExporter(
  namespace: string,
  name: string,
  labels: Record<string, string>,
  token: string,
): ExporterObject {
  return {
    namespace,
    name,
    uid: randomUUID(),
    labels: { ...labels },
    enabled: true,
    devices: null,
    status: ExporterStatus.EXPORTER_STATUS_UNSPECIFIED,
    statusMessage: "",
    lastSeenMs: null,
    statusStreams: 0,
    tokens: new Set([token]),
    issued: token,
  };
}
