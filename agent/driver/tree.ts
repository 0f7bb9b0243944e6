import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, toAgentError } from "./errors.ts";
import { HotPlug, type Look } from "./hot-plug.ts";
import { LiveDriver, type TreeEnvironment } from "./live-driver.ts";
import type { PlannedDriver } from "./plan.ts";
import { compareTrees, type DriverChange } from "./replan.ts";
import { SharedObjects } from "./shared-objects.ts";
import { TreeEvents, type TreeListener } from "./tree-events.ts";

/** What a replan waits for one driver; a hanging one must not keep the exporter from its next lease. */
const closeLimitMs = 10_000;
const openLimitMs = 30_000;

/** All drivers of one exporter. */
export class DriverTree {
  readonly environment: TreeEnvironment;
  readonly #shared = new SharedObjects<LiveDriver>();
  readonly #events = new TreeEvents();
  readonly #closing = new AbortController();
  #root: LiveDriver;
  /** Children before their parents, each driver once. */
  #drivers: readonly LiveDriver[];
  #byUuid: ReadonlyMap<string, LiveDriver>;
  /** Those that other processes run. */
  #bridged: readonly LiveDriver[];
  /** Settles when no replan is under way. */
  #replanned: Promise<unknown> = Promise.resolve();
  #unplug: (() => void) | undefined;
  /** What is being looked at, and what is to be looked at after that. */
  #looking: { next: Look | undefined } | undefined;

  constructor(planned: PlannedDriver, environment: TreeEnvironment) {
    this.environment = environment;
    const { root, drivers, byUuid, bridged } = this.#make(planned, new Map());
    this.#root = root;
    this.#drivers = drivers;
    this.#byUuid = byUuid;
    this.#bridged = bridged;
  }

  get root(): LiveDriver {
    return this.#root;
  }

  /** Aborted when the tree closes. */
  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  /** Children before their parents, each driver once. */
  get drivers(): LiveDriver[] {
    return [...this.#drivers];
  }

  /** The driver with this uuid, or the one whose bridge leads to it. */
  byUuid(uuid: string): LiveDriver | undefined {
    return (
      this.#byUuid.get(uuid) ?? this.#bridged.find(({ bridge }) => bridge?.reports.some((told) => told.uuid === uuid))
    );
  }

  /**
   * Opens every driver, children first. One whose hardware is missing stays offline.
   * @throws AgentError the first other failure, prefixed with the driver's path; everything is closed again.
   */
  async open(): Promise<void> {
    // Other processes take their time to start: all at once.
    for (const driver of this.#bridged) driver.opened().catch(() => {});
    for (const driver of this.drivers) {
      try {
        await driver.opened();
      } catch (thrown) {
        const error = toAgentError(thrown);
        if (error.code === "E_DEVICE_OFFLINE") continue;
        await this.close();
        const where = driver.planned.path === "" ? "" : `${driver.planned.path}: `;
        throw new AgentError(error.code, where + error.message, { cause: error, hint: error.hint });
      }
    }
    this.#followHotPlug();
  }

  /** Listens to what happens to all its drivers. @returns takes it back */
  observe(listener: TreeListener): () => void {
    return this.#events.listen(listener);
  }

  async reset(): Promise<void> {
    this.#events.tell({ kind: "lease", edge: "begins" });
    for (const driver of this.drivers) await driver.step("reset");
  }

  async release(): Promise<void> {
    for (const driver of this.drivers.reverse()) await driver.step("release");
    this.#events.tell({ kind: "lease", edge: "ends" });
  }

  /** What {@link replan} would change. Touches nothing. */
  compare(planned: PlannedDriver): readonly DriverChange[] {
    return compareTrees(this.#drivers, planned).changes;
  }

  /**
   * Takes over a new plan, while nobody calls. A driver stays as it is, with its uuid, if its entry is unchanged and
   * all drivers under it stay; all else is closed, parents first, and what the plan has in its place is opened,
   * children first. A new driver that cannot open is offline with its error, whatever that is: the others work.
   * @returns what has changed, with the errors of the drivers that are not open; empty if nothing has
   * @throws AgentError E_CANCELLED if the tree closes meanwhile
   */
  replan(planned: PlannedDriver): Promise<readonly DriverChange[]> {
    const done = this.#replanned.then(() => this.#replan(planned));
    this.#replanned = done.catch(() => {});
    return done;
  }

  async #replan(planned: PlannedDriver): Promise<readonly DriverChange[]> {
    this.signal.throwIfAborted();
    const { kept, retired, changes } = compareTrees(this.#drivers, planned);
    // From here on the new tree is the tree: its drivers only have to be opened, which every call does.
    const { root, drivers, byUuid, bridged } = this.#make(planned, kept);
    this.#root = root;
    this.#drivers = drivers;
    this.#byUuid = byUuid;
    this.#bridged = bridged;
    const reason = new AgentError("E_CANCELLED", "the driver has gone with its configuration");
    for (const driver of retired) driver.retire(reason);
    for (const driver of [...retired].reverse()) {
      const closed = driver.settled().then(() => driver.step("close"));
      const inTime = await within(closeLimitMs, closed);
      if (!inTime) driver.log.error(`${driver.planned.path} does not close: nobody waits for it any longer`);
    }
    await within(closeLimitMs, this.#leaveShared(retired));

    const stay = new Set(kept.values());
    const errors = new Map<string, AgentError>();
    for (const driver of drivers) {
      if (stay.has(driver)) continue;
      const error = await this.#openNew(driver);
      if (error !== undefined) errors.set(driver.planned.path, error);
    }
    this.signal.throwIfAborted();
    this.#followHotPlug();
    return changes.map((change) => {
      const error = errors.get(change.path);
      return error === undefined ? change : { ...change, error };
    });
  }

  /** @returns why the driver is not open (yet): calls try to open it, and answer with the reason */
  async #openNew(driver: LiveDriver): Promise<AgentError | undefined> {
    try {
      if (await within(openLimitMs, driver.opened(), driver.signal)) return undefined;
      throw new AgentError("E_TIMEOUT", `is not open after ${openLimitMs / 1_000} s`);
    } catch (thrown) {
      const error = toAgentError(thrown);
      // The driver itself has told that it is offline.
      if (error.code !== "E_DEVICE_OFFLINE" && !this.signal.aborted) {
        driver.log.error(`${driver.planned.path} cannot be opened: ${error.message}`);
      }
      return error;
    }
  }

  /** Closes parents before their children, then what drivers shared. Idempotent, and safe during a replan. */
  async close(): Promise<void> {
    const reason = new AgentError("E_CANCELLED", "the exporter is closing");
    this.#closing.abort(reason);
    this.#unplug?.();
    // A replan now opens nothing more; it still closes what it has begun to close.
    for (const driver of this.#drivers) driver.retire(reason);
    await this.#replanned;
    for (const driver of this.drivers.reverse()) await driver.step("close");
    await this.#leaveShared(this.#drivers);
  }

  /** Costs nothing in an exporter without devices that come and go. */
  #followHotPlug(): void {
    this.#unplug?.();
    this.#unplug = undefined;
    const [first] = this.#drivers.filter(({ planned }) => planned.driver.hotPlugged === true);
    if (first === undefined) return;
    const hotPlug = this.environment.onHost.get("hot plug", first, () => new HotPlug(this.#root.log));
    this.#unplug = hotPlug.listen((look) => void this.#look(look));
  }

  async #look(look: Look): Promise<void> {
    if (this.#looking !== undefined) {
      // What was plugged in meanwhile may have been passed over.
      if (this.#looking.next !== "all") this.#looking.next = look;
      return;
    }
    const looking = (this.#looking = { next: look as Look | undefined });
    try {
      while (looking.next !== undefined) {
        const now = looking.next;
        looking.next = undefined;
        for (const driver of this.#drivers) {
          if (now === "all" || driver.offlineReason !== undefined) await driver.look();
        }
      }
    } finally {
      this.#looking = undefined;
    }
  }

  /** Closes what these drivers were the last to use. */
  async #leaveShared(gone: readonly LiveDriver[]): Promise<void> {
    for (const object of [...this.#shared.leave(gone), ...this.environment.onHost.leave(gone)]) {
      try {
        await object.close?.();
      } catch (thrown) {
        this.#root.log.error(`Error closing what drivers shared: ${toAgentError(thrown).message}`);
      }
    }
  }

  /** Gives life to a plan; what is kept is taken over as it is. */
  #make(planned: PlannedDriver, kept: ReadonlyMap<PlannedDriver, LiveDriver>) {
    const made = new Map<PlannedDriver, LiveDriver>();
    const make = (plan: PlannedDriver): LiveDriver => {
      const known = made.get(plan);
      if (known !== undefined) return known;
      const children = new Map([...plan.children].map(([name, child]) => [name, make(child)]));
      const live = kept.get(plan) ?? new LiveDriver(plan, children, this.environment, this.#shared, this.#events);
      made.set(plan, live);
      return live;
    };
    const root = make(planned);
    const drivers = [...made.values()];
    const byUuid = new Map(drivers.map((driver) => [driver.uuid, driver]));
    return { root, drivers, byUuid, bridged: drivers.filter(({ bridge }) => bridge !== undefined) };
  }
}

/** Waits for work, but no longer than this, and no longer than the signal wants. @returns whether it is done */
async function within(limitMs: number, work: Promise<unknown>, signal?: AbortSignal): Promise<boolean> {
  const over = new AbortController();
  const stop = () => over.abort();
  signal?.addEventListener("abort", stop);
  const late = sleep(limitMs, false, { signal: over.signal }).catch(() => false);
  // Its failure may come when nobody waits any more.
  work.catch(() => {});
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    signal?.removeEventListener("abort", stop);
    over.abort();
  }
}
