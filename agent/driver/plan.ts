import { randomUUID } from "node:crypto";
import * as z from "zod";
import { carriedEntries, proxyType, type Carried } from "./carried-entries.ts";
import type { Catalog } from "./catalog.ts";
import { closest } from "./closest.ts";
import type { AnyDriver } from "./driver.ts";
import { isDriverEntry, isProxyEntry, type ConfigProblem, type DriverEntry, type Entry } from "./entry.ts";
import { severities, type Severity } from "./log.ts";
import { problemsOf } from "./problems.ts";

export const compositeType = "jumpstarter_driver_composite.driver.Composite";

/** A driver that is going to be opened: everything the configuration says, checked, no hardware touched yet. */
export interface PlannedDriver {
  readonly name: string;
  /** Dotted path from the root; empty for the root itself. */
  readonly path: string;
  readonly type: string;
  readonly uuid: string;
  /** The uuid, if it is the configuration that gives it. */
  readonly configuredUuid: string | undefined;
  readonly driver: AnyDriver;
  readonly config: Record<string, unknown>;
  readonly labels: Readonly<Record<string, string>>;
  readonly logLevel: Severity;
  readonly description: string | undefined;
  readonly methodsDescription: Readonly<Record<string, string>>;
  /** In the order of the report. A `ref` leads to its target, which so can have several names. */
  readonly children: ReadonlyMap<string, PlannedDriver>;
}

/** Config keys that every driver takes beside its own. */
export const commonConfig = z.object({
  log_level: z
    .string()
    .transform((level) => level.toUpperCase())
    .pipe(z.enum(severities as [Severity, ...Severity[]]))
    .default("INFO"),
  uuid: z.uuid().optional(),
  labels: z.record(z.string(), z.string()).default({}),
});

/** A driver's own config keys; any other is refused, as Python's constructors do, unless the driver takes them all. */
export function ownConfig({ config }: AnyDriver): z.ZodType<Record<string, unknown>> {
  return config instanceof z.ZodObject && config.def.catchall === undefined ? config.strict() : config;
}

/** A planned driver while its refs are not resolved yet. */
interface Draft extends Omit<PlannedDriver, "children"> {
  readonly children: Map<string, Draft | { readonly ref: string; readonly at: ConfigProblem["path"] }>;
}

/**
 * Checks types, configs and refs of a whole tree and loads the drivers' code.
 * @returns the plan, or every problem found.
 */
export async function planTree(
  root: Entry,
  catalog: Catalog,
  options: { at?: ConfigProblem["path"]; description?: string | undefined } = {},
): Promise<{ root: PlannedDriver } | { problems: ConfigProblem[] }> {
  const problems: ConfigProblem[] = [];
  const at = options.at ?? ["export"];
  const draft = await draftDriver(root, "", "", at, { catalog, problems }, true);
  if (draft === undefined || "ref" in draft) return { problems };
  if (options.description !== undefined) Object.assign(draft, { description: options.description });
  const planned = resolveRefs(draft, problems);
  return problems.length > 0 || planned === undefined ? { problems } : { root: planned };
}

interface Drafting {
  readonly catalog: Catalog;
  readonly problems: ConfigProblem[];
}

async function draftDriver(
  entry: Entry,
  name: string,
  path: string,
  at: ConfigProblem["path"],
  { catalog, problems }: Drafting,
  isRoot = false,
): Promise<Draft | { ref: string; at: ConfigProblem["path"] } | undefined> {
  if (isProxyEntry(entry)) return { ref: entry.ref, at };
  const given: DriverEntry = isDriverEntry(entry) ? entry : { ...entry, type: compositeType };
  const { type } = given;
  const fields = isRoot ? at : [...at, "config"];
  if (type === proxyType) {
    const ref = given.config?.["ref"];
    if (typeof ref === "string") return { ref, at: [...at, "config", "ref"] };
    problems.push({ path: fields, message: "a Proxy needs config.ref, the dotted path of another driver" });
    return undefined;
  }
  const known = await catalog.load(type);
  const meant = known === undefined ? closest(type, catalog.types()) : undefined;
  const driver = known ?? (await catalog.foreign?.(type, meant));
  if (driver === undefined) {
    const isClass = type.includes(".");
    const what = isClass
      ? `Driver '${type}' is not installed. Please check exporter configuration.`
      : `${type} doesn't look like a class path`;
    const elsewhere =
      isClass && catalog.foreign !== undefined ? " A Python that has Jumpstarter and this class would run it." : "";
    problems.push({
      path: [...at, "type"],
      message: what + (meant === undefined ? elsewhere : ` Did you mean ${meant}?`),
    });
    return undefined;
  }
  if (driver.bridge !== undefined) {
    const wanted = known === undefined ? { type, config: given.config } : given.config;
    const inner = known === undefined ? fields : [...fields, "config"];
    return draftBridged({ ...given, config: wanted }, driver, { name, path, at, inner }, problems);
  }
  const { log_level, uuid, labels, ...own } = given.config ?? {};
  const common = commonConfig.safeParse({ log_level, uuid, labels });
  const config = ownConfig(driver).safeParse(own);
  const keys = driver.config instanceof z.ZodObject ? Object.keys(driver.config.shape) : [];
  for (const parsed of [common, config]) {
    if (!parsed.success) problems.push(...problemsOf(parsed.error, fields, keys));
  }
  const configured = given.children ?? {};
  const added =
    config.success && driver.children !== undefined ? driver.children({ config: config.data, path, configured }) : {};
  const children: Draft["children"] = new Map();
  for (const [childName, child] of Object.entries({ ...configured, ...added })) {
    // The problems of a child that the driver brought along are problems of the driver's own config.
    const childAt = Object.hasOwn(added, childName)
      ? fields
      : isRoot
        ? [...at, childName]
        : [...at, "children", childName];
    const childPath = path === "" ? childName : `${path}.${childName}`;
    const drafted = await draftDriver(child, childName, childPath, childAt, { catalog, problems });
    if (drafted !== undefined) children.set(childName, drafted);
  }
  for (const [required, message] of Object.entries(driver.requires ?? {})) {
    if (!Object.hasOwn(configured, required)) problems.push({ path: at, message });
  }
  if (!common.success || !config.success) return undefined;
  return {
    name,
    path,
    type,
    driver,
    uuid: common.data.uuid ?? randomUUID(),
    configuredUuid: common.data.uuid,
    config: config.data,
    labels: { ...common.data.labels, ...driver.labels?.(config.data) },
    logLevel: common.data.log_level,
    description: given.description,
    methodsDescription: given.methodsDescription ?? {},
    children,
  };
}

/** A driver that another process runs, with all that is configured below it: no draft of ours, but a part of its config. */
function draftBridged(
  given: DriverEntry,
  driver: AnyDriver,
  { name, path, at, inner }: { name: string; path: string; at: ConfigProblem["path"]; inner: ConfigProblem["path"] },
  problems: ConfigProblem[],
): Draft | undefined {
  const carried: Carried = {
    description: given.description,
    methodsDescription: given.methodsDescription,
    children: carriedEntries(given.children ?? {}, path, [...at, "children"], problems),
  };
  const config = ownConfig(driver).safeParse(given.config ?? {});
  if (!config.success) {
    problems.push(...problemsOf(config.error, [...at, "config"]));
    return undefined;
  }
  const { log_level, uuid, labels } = (config.data["config"] ?? {}) as Record<string, unknown>;
  const common = commonConfig.safeParse({ log_level, uuid, labels });
  if (!common.success) {
    problems.push(...problemsOf(common.error, inner));
    return undefined;
  }
  return {
    name,
    path,
    type: String(config.data["type"]),
    driver,
    uuid: common.data.uuid ?? randomUUID(),
    configuredUuid: common.data.uuid,
    config: { ...config.data, ...carried },
    labels: common.data.labels,
    logLevel: common.data.log_level,
    description: given.description,
    methodsDescription: given.methodsDescription ?? {},
    children: new Map(),
  };
}

/** Replaces every ref by its target; a ref may lead through other refs, but not around in a circle. */
function resolveRefs(root: Draft, problems: ConfigProblem[]): PlannedDriver | undefined {
  const missing = (ref: string, name: string, at: ConfigProblem["path"]) => {
    const into = leadsInto(ref);
    const why =
      into === undefined ? "" : `: Python runs ${into.path} with all below it, so refer to ${into.path} itself`;
    problems.push({ path: at, message: `Proxy driver ${name} references nonexistent driver ${ref}${why}` });
  };

  /** What a ref wants of a driver that another process runs: nobody here knows what stands below it. */
  const leadsInto = (ref: string): Draft | undefined => {
    let here: Draft = root;
    for (const segment of ref.split(".")) {
      const next = here.children.get(segment);
      if (next === undefined || "ref" in next) return here.driver.bridge === undefined ? undefined : here;
      here = next;
    }
    return undefined;
  };

  const find = (ref: string, seen: ReadonlySet<string>): Draft | undefined => {
    if (seen.has(ref) || ref === "") return undefined;
    const trail = new Set([...seen, ref]);
    let here: Draft = root;
    for (const segment of ref.split(".")) {
      const next = here.children.get(segment);
      const target = next !== undefined && "ref" in next ? find(next.ref, trail) : next;
      if (target === undefined) return undefined;
      here = target;
    }
    return here;
  };

  const done = new Map<Draft, PlannedDriver>();
  const build = (draft: Draft, above: ReadonlySet<Draft>): PlannedDriver => {
    const known = done.get(draft);
    if (known !== undefined) return known;
    const children = new Map<string, PlannedDriver>();
    const here = new Set([...above, draft]);
    for (const [name, child] of draft.children) {
      const target = "ref" in child ? find(child.ref, new Set()) : child;
      if (target === undefined)
        missing((child as { ref: string }).ref, name, (child as { at: ConfigProblem["path"] }).at);
      else if (here.has(target)) {
        const at = "ref" in child ? child.at : [];
        problems.push({
          path: at,
          message: `ref of ${name} leads back to ${target.path || "the root"}, which contains it`,
        });
      } else children.set(name, build(target, here));
    }
    const planned: PlannedDriver = { ...draft, children };
    done.set(draft, planned);
    return planned;
  };
  return build(root, new Set());
}
