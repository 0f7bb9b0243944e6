import type { AgentError } from "./errors.ts";
import type { LiveDriver } from "./live-driver.ts";
import type { PlannedDriver } from "./plan.ts";

/** What a new configuration does to one driver. */
export interface DriverChange {
  /** Dotted path from the root; empty for the root itself. */
  readonly path: string;
  /** `follows`: its own entry is as before, but it holds handles to a driver that is not. */
  readonly change: "added" | "removed" | "changed" | "follows";
  /** Why the new driver is not open: E_DEVICE_OFFLINE, or what else its `open` threw. Calls answer with it. */
  readonly error?: AgentError;
}

/** How a planned tree differs from the one that lives. */
export interface Comparison {
  /** Drivers that stay as they are, by their place in the new plan. */
  readonly kept: ReadonlyMap<PlannedDriver, LiveDriver>;
  /** Drivers that have to go, in the order they were given. */
  readonly retired: readonly LiveDriver[];
  /** Children before their parents, then what is removed. */
  readonly changes: readonly DriverChange[];
}

/** Compares by path. @param living every driver of the living tree, once */
export function compareTrees(living: readonly LiveDriver[], planned: PlannedDriver): Comparison {
  const before = new Map(living.map((driver) => [driver.planned.path, driver]));
  const kept = new Map<PlannedDriver, LiveDriver>();
  const seen = new Set<PlannedDriver>();
  const changes: DriverChange[] = [];

  const compare = (plan: PlannedDriver): void => {
    if (seen.has(plan)) return;
    seen.add(plan);
    for (const child of plan.children.values()) compare(child);
    const { path } = plan;
    const old = before.get(path);
    if (old === undefined) changes.push({ path, change: "added" });
    else if (!sameEntry(old.planned, plan)) changes.push({ path, change: "changed" });
    else if (!sameChildren(old, plan, kept)) changes.push({ path, change: "follows" });
    else kept.set(plan, old);
  };
  compare(planned);

  const paths = new Set([...seen].map(({ path }) => path));
  const stay = new Set(kept.values());
  const retired = living.filter((driver) => !stay.has(driver));
  for (const driver of retired) {
    const { path } = driver.planned;
    if (!paths.has(path)) changes.push({ path, change: "removed" });
  }
  return { kept, retired, changes };
}

/** Their order counts: it is the order of the report. */
function sameChildren(old: LiveDriver, plan: PlannedDriver, kept: ReadonlyMap<PlannedDriver, LiveDriver>): boolean {
  const before = [...old.children];
  const after = [...plan.children];
  return (
    before.length === after.length &&
    after.every(([name, child], index) => before[index]?.[0] === name && before[index][1] === kept.get(child))
  );
}

function sameEntry(old: PlannedDriver, plan: PlannedDriver): boolean {
  return (
    old.type === plan.type &&
    old.configuredUuid === plan.configuredUuid &&
    old.logLevel === plan.logLevel &&
    (old.description ?? "") === (plan.description ?? "") &&
    sameValue(old.labels, plan.labels) &&
    sameValue(old.methodsDescription, plan.methodsDescription) &&
    sameValue(old.config, plan.config)
  );
}

/** Plain data by value, all else by identity: a class may hide what makes two of its objects differ. */
function sameValue(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (Array.isArray(one)) {
    return (
      Array.isArray(other) && one.length === other.length && one.every((item, index) => sameValue(item, other[index]))
    );
  }
  if (!isPlain(one) || !isPlain(other)) return false;
  const keys = Object.keys(one);
  return (
    keys.length === Object.keys(other).length &&
    keys.every((key) => Object.hasOwn(other, key) && sameValue(one[key], other[key]))
  );
}

function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const proto: unknown = Object.getPrototypeOf(value);
  return proto === Object.prototype || proto === null;
}

/** One line for people: `power: changed, offline: there is no /dev/ttyUSB0`. */
export function describeChange({ path, change, error }: DriverChange): string {
  const what = change === "follows" ? "opened again, as it uses a driver that changed" : change;
  const state =
    error === undefined
      ? ""
      : `, ${error.code === "E_DEVICE_OFFLINE" ? "offline" : "cannot be opened"}: ${error.message}`;
  return `${path || "the root"}: ${what}${state}`;
}
