import { toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import { leadsToJournal } from "../sys/journal.ts";
import { startLoopGuard, type LoopGuard } from "../sys/loop-guard.ts";
import { findServiceManager, type ServiceManager } from "../sys/notify.ts";

/** How a service is at a moment. */
export interface ServiceState {
  /** One line for people. */
  readonly text: string;
  /** Whether it has begun to serve; once it has, it stays so. */
  readonly ready: boolean;
  /** What of its own work hangs: the watchdog is not fed until it is done. */
  readonly overdue?: string | undefined;
}

/** What the service manager that has started us is told, for as long as this process lives. Without one, nothing. */
export interface Service {
  /** From now on this tells how the service is. */
  follow(look: () => ServiceState): void;
  /** Does something in which the configuration changes, and says so. */
  reloading<T>(work: () => Promise<T>): Promise<T>;
  /** From now on it ends. */
  stopping(): void;
  close(): void;
}

/** Someone may wait for the service to be ready. */
const startingMs = 200;
const lookMs = 2_000;
/** A driver that takes long to open must not keep the others, nor whoever waits for the service. */
const readyLimitMs = 30_000;
/** More time to stop, asked for again and again while something is still to be ended in order. */
const moreTimeMs = 15_000;

/** @param env is freed of what the service manager has put there for us alone */
export async function startService(log: Logger, env: NodeJS.ProcessEnv = process.env): Promise<Service> {
  const manager = await findServiceManager(env).catch((error: unknown) => {
    log.warn(`the service manager cannot be told anything: ${toAgentError(error).message}`);
    return undefined;
  });
  return manager === undefined ? nobody : new ManagedService(manager, log);
}

const nobody: Service = { follow() {}, reloading: (work) => work(), stopping() {}, close() {} };

class ManagedService implements Service {
  readonly #manager: ServiceManager;
  readonly #log: Logger;
  readonly #guard: LoopGuard | undefined;
  readonly #startedMs = performance.now();
  #look: () => ServiceState = () => ({ text: "starting", ready: false });
  #timer: NodeJS.Timeout | undefined;
  #told: string | undefined;
  #overdue: string | undefined;
  #ready = false;
  #stopping = false;
  #reloads = 0;

  constructor(manager: ServiceManager, log: Logger) {
    this.#manager = manager;
    this.#log = log;
    const { watchdogMs } = manager;
    if (watchdogMs !== undefined) {
      // Half of it: what blocks the loop is told before the manager ends it.
      this.#guard = startLoopGuard({ limitMs: watchdogMs / 2, prefix: leadsToJournal(2) ? "<2>" : "" });
    }
    this.#tick();
  }

  follow(look: () => ServiceState): void {
    this.#look = look;
    this.#tick();
  }

  async reloading<T>(work: () => Promise<T>): Promise<T> {
    this.#reloads += 1;
    if (this.#reloads === 1) {
      // CLOCK_MONOTONIC, as the manager wants it.
      this.#manager.notify({ RELOADING: 1, MONOTONIC_USEC: process.hrtime.bigint() / 1_000n });
    }
    try {
      return await work();
    } finally {
      this.#reloads -= 1;
      if (this.#reloads === 0 && this.#ready) this.#manager.notify({ READY: 1 });
    }
  }

  stopping(): void {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#manager.notify({ STOPPING: 1 });
    this.#tick();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#manager.close();
    void this.#guard?.close();
  }

  /** Comes of a timer: a loop that does not turn feeds no watchdog. */
  #tick(): void {
    clearTimeout(this.#timer);
    const { text, ready, overdue } = this.#look();
    const status = overdue === undefined ? text : `${text}; hangs: ${overdue}`;
    if (status !== this.#told && this.#manager.notify({ STATUS: status })) this.#told = status;
    if (!this.#ready && (ready || performance.now() - this.#startedMs > readyLimitMs)) {
      this.#ready = this.#manager.notify({ READY: 1 });
    }
    this.#feed(overdue);
    const { watchdogMs = Infinity } = this.#manager;
    const nextMs = Math.min(this.#ready ? lookMs : startingMs, watchdogMs / 4);
    this.#timer = setTimeout(() => this.#tick(), nextMs).unref();
  }

  #feed(overdue: string | undefined): void {
    this.#guard?.turned();
    if ((overdue === undefined) !== (this.#overdue === undefined)) {
      if (overdue === undefined) this.#log.info("Nothing hangs any more");
      else this.#log.error(`Hangs, so that the watchdog will start the agent again: ${overdue}`);
    }
    this.#overdue = overdue;
    if (overdue !== undefined) return;
    if (this.#manager.watchdogMs !== undefined) this.#manager.notify({ WATCHDOG: 1 });
    if (this.#stopping) this.#manager.notify({ EXTEND_TIMEOUT_USEC: moreTimeMs * 1_000 });
  }
}
