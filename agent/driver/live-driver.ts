import type { Readable } from "node:stream";
import type { Bridge } from "./bridge.ts";
import { childHandle } from "./child-calls.ts";
import type { Call, Cancellable, OpenDriver } from "./driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "./errors.ts";
import type { Interface } from "./interface.ts";
import type { LogBus, Logger } from "./log.ts";
import type { PlannedDriver } from "./plan.ts";
import type { ReceiptKeeper } from "./receipt.ts";
import type { ResourceHandle } from "./resource.ts";
import type { SharedObjects } from "./shared-objects.ts";
import type { Shown } from "./shown.ts";
import type { TreeEvents } from "./tree-events.ts";

/** What the tree needs from the house to serve calls between drivers. */
export interface TreeEnvironment {
  /** Name of the exporter. */
  readonly exporter: string;
  readonly logs: LogBus;
  /** What drivers of all exporters of the process share. */
  readonly onHost: SharedObjects<object>;
  readonly receipts: ReceiptKeeper;
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
  readonly environment: TreeEnvironment;
  readonly log: Logger;
  readonly events: TreeEvents;
  /** The way to the process that runs it, if that is not ours. Calls go there once the driver is {@link opened}. */
  readonly bridge: Bridge | undefined;
  readonly #shared: SharedObjects<LiveDriver>;
  readonly #closing = new AbortController();
  #opened: OpenDriver<Interface> | undefined;
  /** Why the last attempt to open it failed. */
  #offline: AgentError | undefined;
  #attempt: Promise<OpenDriver<Interface>> | undefined;
  #lastAttemptMs = -Infinity;

  constructor(
    planned: PlannedDriver,
    children: ReadonlyMap<string, LiveDriver>,
    environment: TreeEnvironment,
    shared: SharedObjects<LiveDriver>,
    events: TreeEvents,
  ) {
    this.planned = planned;
    this.children = children;
    this.environment = environment;
    this.#shared = shared;
    this.events = events;
    this.log = environment.logs.logger({
      source: "driver",
      logger: `driver.${planned.type.split(".").at(-1) ?? planned.type}`,
      driverType: planned.driver.implements.driverType,
      level: planned.logLevel,
    });
    this.bridge = planned.driver.bridge?.({
      config: planned.config,
      path: planned.path,
      uuid: planned.uuid,
      log: this.log,
      logs: environment.logs,
      signal: this.signal,
      changed: () => void (this.#opened === undefined ? this.opened().catch(() => {}) : this.look()),
    });
  }

  get uuid(): string {
    return this.planned.uuid;
  }

  /** Aborted when the driver closes for good. */
  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  /** Why the driver cannot be used now; undefined while it can. */
  get offlineReason(): string | undefined {
    return this.#offline?.message;
  }

  /** What it lets the operator see; undefined while it is not open, or has nothing to show. */
  get shown(): Shown | undefined {
    return this.#opened?.shows?.();
  }

  get methodsDescription(): Readonly<Record<string, string>> {
    return { ...this.planned.methodsDescription, ...this.#opened?.methodsDescription };
  }

  /**
   * The opened driver; an offline one is tried again, at most once a second.
   * @throws AgentError E_DEVICE_OFFLINE, or what else kept it from opening
   */
  async opened(): Promise<OpenDriver<Interface>> {
    if (this.#opened !== undefined) return this.#opened;
    if (this.#attempt !== undefined) return this.#attempt;
    if (this.#offline !== undefined && performance.now() - this.#lastAttemptMs < reopenAfterMs) throw this.#offline;
    return this.#try();
  }

  /**
   * Something was plugged in or out: an offline driver whose device comes and goes is tried again, and an open one looks whether its
   * device is still there. Never throws.
   */
  async look(): Promise<void> {
    if (this.#attempt !== undefined || this.signal.aborted) return;
    if (this.#opened === undefined) {
      if (this.planned.driver.hotPlugged === true) await this.#try().catch(() => {});
      return;
    }
    const opened = this.#opened;
    try {
      await opened.check?.();
    } catch (thrown) {
      if (!(thrown instanceof DeviceOffline)) this.log.debug(`${this.planned.path}: ${toAgentError(thrown).message}`);
      else if (this.#opened === opened) await this.#lose(thrown);
    }
  }

  async #lose(reason: DeviceOffline): Promise<void> {
    this.#tellOffline(reason);
    await this.step("close");
  }

  #tellOffline(error: AgentError): void {
    if (error instanceof DeviceOffline && this.#offline?.message !== error.message) {
      const hint = error.hint === undefined ? "" : ` (${error.hint})`;
      this.log.warn(`${this.planned.path} is offline: ${error.message}${hint}`);
    }
    this.#offline = error;
  }

  async #try(): Promise<OpenDriver<Interface>> {
    this.#attempt = this.#open();
    try {
      return await this.#attempt;
    } finally {
      this.#attempt = undefined;
      this.#lastAttemptMs = performance.now();
    }
  }

  async #open(): Promise<OpenDriver<Interface>> {
    const { planned, signal } = this;
    signal.throwIfAborted();
    try {
      const opened = await planned.driver.open({
        config: planned.config,
        name: planned.name,
        exporter: this.environment.exporter,
        path: planned.path,
        uuid: planned.uuid,
        log: this.log,
        children: new Map([...this.children].map(([name, child]) => [name, childHandle(child, this)])),
        bridge: this.bridge,
        signal,
        shared: (key, make) => {
          // Nobody would close what is made now.
          signal.throwIfAborted();
          return this.#shared.get(key, this, make);
        },
        sharedOnHost: (key, make) => {
          signal.throwIfAborted();
          return this.environment.onHost.get(key, this, make);
        },
        receipts: this.environment.receipts,
        observe: (listener) => this.events.listen(listener),
        tell: (event) => this.events.tell(event),
      });
      if (signal.aborted) {
        // Nobody would close it later: the driver has been closed while it opened.
        await opened.close?.();
        signal.throwIfAborted();
      }
      if (this.#offline !== undefined) this.log.info(`${planned.path} is back`);
      this.#offline = undefined;
      this.#opened = opened;
      return opened;
    } catch (thrown) {
      const error = toAgentError(thrown);
      this.#tellOffline(error);
      throw error;
    }
  }

  /** From now on it cannot be opened any more, and what it does for itself is aborted with this reason. */
  retire(reason: AgentError): void {
    this.#closing.abort(reason);
  }

  /** Resolves when no attempt to open it is under way. */
  async settled(): Promise<void> {
    await this.#attempt?.catch(() => {});
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
