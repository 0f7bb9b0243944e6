import type { Readable } from "node:stream";
import type { Call, Cancellable, ChildHandle, OpenDriver } from "./driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "./errors.ts";
import type { Calls, Interface } from "./interface.ts";
import { invokeStream, invokeStreaming, invokeUnary } from "./invoke.ts";
import type { LogBus, Logger } from "./log.ts";
import type { PlannedDriver } from "./plan.ts";
import type { ResourceHandle } from "./resource.ts";

/** What the tree needs from the house to serve calls between drivers. */
export interface TreeEnvironment {
  readonly logs: LogBus;
  /** Makes the {@link Call} of a method; `done` closes what the call left open. */
  readonly beginCall: (driver: LiveDriver, caller: Cancellable) => { readonly call: Call; readonly done: () => void };
  /** Registers a local stream as a resource that one call to `driver` may use. */
  readonly lend: (driver: LiveDriver, source: Readable) => ResourceHandle;
}

/** How long an offline driver is left alone before a call tries to open it again. */
const reopenAfterMs = 1_000;

/** One driver of an exporter: open, or offline with a reason and opened again when it is called later. */
export class LiveDriver {
  readonly planned: PlannedDriver;
  readonly children: ReadonlyMap<string, LiveDriver>;
  readonly log: Logger;
  readonly #tree: DriverTree;
  #opened: OpenDriver<Interface> | undefined;
  #offline: AgentError | undefined;
  #attempt: Promise<OpenDriver<Interface>> | undefined;
  #lastAttemptMs = -Infinity;

  constructor(planned: PlannedDriver, children: ReadonlyMap<string, LiveDriver>, tree: DriverTree) {
    this.planned = planned;
    this.children = children;
    this.#tree = tree;
    this.log = tree.environment.logs.logger({
      source: "driver",
      logger: `driver.${planned.type.split(".").at(-1) ?? planned.type}`,
      driverType: planned.driver.implements.driverType,
      level: planned.logLevel,
    });
  }

  get uuid(): string {
    return this.planned.uuid;
  }

  /** Why the driver cannot be used now; undefined while it can. */
  get offlineReason(): string | undefined {
    return this.#offline?.message;
  }

  get methodsDescription(): Readonly<Record<string, string>> {
    return { ...this.planned.methodsDescription, ...this.#opened?.methodsDescription };
  }

  /** The opened driver; an offline one is tried again, at most once a second. @throws AgentError E_DEVICE_OFFLINE */
  async opened(): Promise<OpenDriver<Interface>> {
    if (this.#opened !== undefined) return this.#opened;
    if (this.#attempt !== undefined) return this.#attempt;
    if (this.#offline !== undefined && performance.now() - this.#lastAttemptMs < reopenAfterMs) throw this.#offline;
    this.#attempt = this.#open();
    try {
      return await this.#attempt;
    } finally {
      this.#attempt = undefined;
      this.#lastAttemptMs = performance.now();
    }
  }

  async #open(): Promise<OpenDriver<Interface>> {
    const { planned } = this;
    const tree = this.#tree;
    if (tree.signal.aborted) throw new AgentError("E_CANCELLED", "the exporter is closing");
    try {
      const opened = await planned.driver.open({
        config: planned.config,
        name: planned.name,
        path: planned.path,
        uuid: planned.uuid,
        log: this.log,
        children: new Map([...this.children].map(([name, child]) => [name, childHandle(child, tree)])),
        signal: tree.signal,
        shared: (key, make) => tree.shared(key, make),
      });
      if (tree.signal.aborted) {
        // Nobody would close it later: the tree has been closed while it opened.
        await opened.close?.();
        throw new AgentError("E_CANCELLED", "the exporter is closing");
      }
      if (this.#offline !== undefined) this.log.info(`${planned.path} is back`);
      this.#offline = undefined;
      this.#opened = opened;
      return opened;
    } catch (thrown) {
      const error = toAgentError(thrown);
      if (thrown instanceof DeviceOffline) {
        if (this.#offline?.message !== error.message) this.log.warn(`${planned.path} is offline: ${error.message}`);
        this.#offline = error;
      }
      throw error;
    }
  }

  /** Runs one lifecycle step, if the driver is open and has it. A failure is logged, the others go on. */
  async step(step: "reset" | "release" | "close"): Promise<void> {
    const opened = this.#opened;
    if (step === "close") this.#opened = undefined;
    try {
      await opened?.[step]?.();
    } catch (thrown) {
      const word = step === "close" ? "closing" : step === "reset" ? "resetting" : "releasing";
      this.log.error(`Error ${word} driver ${this.planned.name}: ${toAgentError(thrown).message}`);
    }
  }
}

/** All drivers of one exporter. */
export class DriverTree {
  readonly environment: TreeEnvironment;
  readonly root: LiveDriver;
  readonly #byUuid = new Map<string, LiveDriver>();
  readonly #shared = new Map<string, { close?(): void | Promise<void> }>();
  readonly #closing = new AbortController();

  constructor(planned: PlannedDriver, environment: TreeEnvironment) {
    this.environment = environment;
    const made = new Map<PlannedDriver, LiveDriver>();
    const make = (plan: PlannedDriver): LiveDriver => {
      const known = made.get(plan);
      if (known !== undefined) return known;
      const children = new Map([...plan.children].map(([name, child]) => [name, make(child)]));
      const live = new LiveDriver(plan, children, this);
      made.set(plan, live);
      this.#byUuid.set(plan.uuid, live);
      return live;
    };
    this.root = make(planned);
  }

  /** Aborted when the tree closes. */
  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  /** Children before their parents, each driver once. */
  get drivers(): LiveDriver[] {
    return [...this.#byUuid.values()];
  }

  byUuid(uuid: string): LiveDriver | undefined {
    return this.#byUuid.get(uuid);
  }

  /**
   * Opens every driver, children first. One whose hardware is missing stays offline.
   * @throws AgentError the first other failure, prefixed with the driver's path; everything is closed again.
   */
  async open(): Promise<void> {
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
  }

  async reset(): Promise<void> {
    for (const driver of this.drivers) await driver.step("reset");
  }

  async release(): Promise<void> {
    for (const driver of this.drivers.reverse()) await driver.step("release");
  }

  /** Closes parents before their children, then what drivers shared. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const driver of this.drivers.reverse()) await driver.step("close");
    const shared = [...this.#shared.values()];
    this.#shared.clear();
    for (const object of shared) await object.close?.();
  }

  shared<T extends { close?(): void | Promise<void> }>(key: string, make: () => T): T {
    const known = this.#shared.get(key);
    if (known !== undefined) return known as T;
    const object = make();
    this.#shared.set(key, object);
    return object;
  }
}

/** Typed calls on a driver of the same process, checked like remote ones. */
export function callsOn<I extends Interface>(
  driver: LiveDriver,
  tree: DriverTree,
  wanted: I,
  options: { signal?: AbortSignal } = {},
): Calls<I> {
  const has = driver.planned.driver.implements.methods;
  for (const method of Object.keys(wanted.methods)) {
    if (!Object.hasOwn(has, method)) {
      throw new AgentError(
        "E_CONFIG",
        `${driver.planned.path} (${driver.planned.type}) cannot be used as ${wanted.driverType}: it has no method ${method}`,
      );
    }
  }
  const caller = { signal: options.signal ?? tree.signal };
  const calls: Record<string, (...args: unknown[]) => unknown> = {};
  for (const [method, { kind }] of Object.entries(wanted.methods)) {
    if (kind === "unary") {
      calls[method] = async (...args) => {
        const { call, done } = tree.environment.beginCall(driver, caller);
        try {
          return await invokeUnary(driver, method, args, call);
        } finally {
          done();
        }
      };
    } else if (kind === "streaming") {
      calls[method] = async function* (...args) {
        const { call, done } = tree.environment.beginCall(driver, caller);
        try {
          yield* invokeStreaming(driver, method, args, call);
        } finally {
          done();
        }
      };
    } else {
      calls[method] = async () => {
        const { call, done } = tree.environment.beginCall(driver, caller);
        try {
          const stream = await invokeStream(driver, method, call);
          return stream.once("close", done);
        } catch (error) {
          done();
          throw error;
        }
      };
    }
  }
  return calls as Calls<I>;
}

function childHandle(driver: LiveDriver, tree: DriverTree): ChildHandle {
  return {
    type: driver.planned.type,
    as: (wanted, options) => callsOn(driver, tree, wanted, options),
    child: (name) => {
      const child = driver.children.get(name);
      return child === undefined ? undefined : childHandle(child, tree);
    },
    lend: (source) => tree.environment.lend(driver, source),
  };
}
