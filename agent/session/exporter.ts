import { randomUUID } from "node:crypto";
import { shippedDrivers, type Catalog } from "../driver/catalog.ts";
import type { Cancellable } from "../driver/driver.ts";
import type { Entry } from "../driver/entry.ts";
import { AgentError } from "../driver/errors.ts";
import type { Calls, Interface } from "../driver/interface.ts";
import { LogBus } from "../driver/log.ts";
import { planTree, type PlannedDriver } from "../driver/plan.ts";
import { callsOn } from "../driver/child-calls.ts";
import type { LiveDriver } from "../driver/live-driver.ts";
import { forgetReceipts, type ReceiptKeeper } from "../driver/receipt.ts";
import { SharedObjects } from "../driver/shared-objects.ts";
import { DriverTree } from "../driver/tree.ts";
import { ResourceTable, type ResourceOptions } from "../stream/resources.ts";
import { CallScope } from "./call-scope.ts";

export interface ExporterOptions {
  readonly name: string;
  readonly description?: string | undefined;
  readonly export: Readonly<Record<string, Entry>>;
  readonly logs?: LogBus | undefined;
  /** Where driver types are looked up; the shipped ones unless given. */
  readonly catalog?: Catalog | undefined;
  readonly resources?: ResourceOptions | undefined;
  /** What it shares with the other exporters of the process; none unless given. */
  readonly onHost?: SharedObjects<object> | undefined;
  /** Where receipts of flashes go; forgotten unless given. */
  readonly receipts?: ReceiptKeeper | undefined;
}

/** One identity with its tree of drivers, and what all its sessions share. */
export interface Exporter {
  readonly name: string;
  readonly uuid: string;
  readonly logs: LogBus;
  readonly tree: DriverTree;
  readonly resources: ResourceTable;
  readonly receipts: ReceiptKeeper;
  /** A plan of other drivers for this exporter's tree. Touches no hardware. @throws AgentError E_CONFIG */
  plan(options: Pick<ExporterOptions, "export" | "description">): Promise<PlannedDriver>;
  /** Typed calls on the driver with this dotted path (empty: the root). @throws AgentError E_CONFIG */
  calls<I extends Interface>(path: string, wanted: I, options?: { signal?: AbortSignal }): Calls<I>;
  /** Begins a method call on a driver; `done` closes what it left open. */
  beginCall(driver: LiveDriver, caller: Cancellable): { readonly call: CallScope; readonly done: () => void };
  /** Closes all drivers. Sessions must be closed before. Idempotent. */
  close(): Promise<void>;
}

/**
 * Plans and opens a tree of drivers.
 * @throws AgentError E_CONFIG with every problem of the configuration, or the first driver's that cannot open.
 */
export async function createExporter(options: ExporterOptions): Promise<Exporter> {
  const logs = options.logs ?? new LogBus();
  const plan: Exporter["plan"] = async ({ export: entries, description }) => {
    const planned = await planTree({ children: entries }, options.catalog ?? shippedDrivers, {
      at: ["export"],
      description,
    });
    if ("root" in planned) return planned.root;
    const text = planned.problems.map(({ path, message }) => `${path.join(".")}: ${message}`).join("\n");
    throw new AgentError("E_CONFIG", text);
  };
  const resources = new ResourceTable(options.resources);
  const receipts = options.receipts ?? forgetReceipts(options.name);
  const beginCall: Exporter["beginCall"] = (driver, caller) => {
    const call = new CallScope(resources, driver.log, caller);
    return { call, done: () => call.done() };
  };
  const tree = new DriverTree(await plan(options), {
    exporter: options.name,
    logs,
    onHost: options.onHost ?? new SharedObjects(),
    receipts,
    beginCall,
    lend: (_driver, source) => resources.lend(source, null),
  });
  const close = async () => {
    await tree.close();
    resources.close();
  };
  try {
    await tree.open();
  } catch (error) {
    await close();
    throw error;
  }
  return {
    name: options.name,
    uuid: randomUUID(),
    logs,
    tree,
    resources,
    receipts,
    plan,
    beginCall,
    calls: (path, wanted, callOptions) => callsOn(find(tree, path), tree, wanted, callOptions),
    close,
  };
}

function find(tree: DriverTree, path: string): LiveDriver {
  let here = tree.root;
  for (const name of path === "" ? [] : path.split(".")) {
    const next = here.children.get(name);
    if (next === undefined) throw new AgentError("E_CONFIG", `there is no driver ${path}`);
    here = next;
  }
  return here;
}
