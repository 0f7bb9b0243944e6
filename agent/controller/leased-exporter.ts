import type { Duplex } from "node:stream";
import type { ExporterConfig } from "../config/schema.ts";
import { toAgentError } from "../driver/errors.ts";
import { killLeftoverHooks } from "../hooks/leftovers.ts";
import { runHook, type HookOutcome } from "../hooks/hook.ts";
import type { Exporter } from "../session/exporter.ts";
import { report } from "../session/report.ts";
import type { AuditLog, LeaseAudit } from "../ops/audit.ts";
import { Backoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import type { ControllerClient } from "./controller-client.ts";
import { startControllerLink } from "./controller-link.ts";
import { Heart } from "./heart.ts";
import { LeaseLoop } from "./lease-loop.ts";
import type { HookName, Lease, LeaseEffect, LeaseEvent, LeaseState } from "./lease-machine.ts";
import { openLeaseScope, type LeaseScope } from "./lease-scope.ts";
import { listenForClients } from "./listen-for-clients.ts";
import { releaseLease } from "./release-lease.ts";
import { StatusReporter } from "./status-reporter.ts";

/** What of the configuration a lease goes by. It may change between leases. */
export type LeaseConfig = Pick<ExporterConfig, "hooks" | "motd" | "exitOnLeaseEnd">;

export interface LeasedExporterOptions {
  readonly exporter: Exporter;
  readonly config: () => LeaseConfig;
  readonly controller: ControllerClient;
  /** Opens the byte stream that a router joins with a client's. */
  readonly dial: (routerEndpoint: string, routerToken: string) => Duplex;
  readonly clock: Clock;
  readonly env: NodeJS.ProcessEnv;
  /** Where the private directory of a lease is made; `mkdtemp` adds to it. */
  readonly directoryPrefix: string;
  /** Writes down who used what. */
  readonly audit: Pick<AuditLog, "begin"> | undefined;
  /** Called once, when the controller knows the exporter. */
  readonly registered: () => void;
  /** Reads again what the exporter shows the controller to be let in; true if it has changed. */
  readonly refreshCredentials: () => Promise<boolean>;
  readonly work?: LeaseWork;
}

/** What of a lease touches drivers, sockets and processes; where only the order of things counts, others take its place. */
export interface LeaseWork {
  readonly openScope: typeof openLeaseScope;
  readonly runHook: typeof runHook;
  readonly killLeftoverHooks: typeof killLeftoverHooks;
}

/** An exporter that registers with a controller and serves its leases until it is stopped. */
export interface LeasedExporter {
  readonly state: LeaseState;
  /** Whether the controller has taken the registration and not been lost since. */
  readonly online: boolean;
  /** What of its own work hangs; undefined while all is well, whatever the controller does. */
  readonly overdue: string | undefined;
  /** Whether the controller has ever taken the registration. */
  readonly registered: boolean;
  /** How often the controller was reached. */
  readonly connections: number;
  /** When the lease that is served began; of the last one, if none is. */
  readonly leaseSince: Date | undefined;
  /** Ends the exporter in good order: afterLease runs, the controller is told. */
  stop(when: "now" | "leaseEnd", exitCode: number): void;
  /** Runs a task while no lease is served: at once, or when the current lease is over. Leases wait for it. */
  whenFree(task: () => Promise<void>): { readonly when: "now" | "at-lease-end"; readonly done: Promise<void> };
  /** Tells the controller anew what this exporter has. */
  registerAgain(): void;
  /** Leaves everything as fast as it can, after a failure that nobody caught. The controller is told why. */
  abandon(reason: string): Promise<void>;
  /** @returns the exit code; never settles after `abandon` */
  readonly done: Promise<number>;
}

/** Clients poll the status; this long the last one can be read before the session goes. */
const settleMs = 1_000;

/** How long the controller is asked to take a lease back before the exporter goes on; it is asked again if it names the lease. */
const releaseLimitMs = 30_000;

/** How long the controller may take to hear that the exporter goes. */
const farewellMs = 10_000;

/** The edges of a lease and what is done between leases; each step of it has a limit of its own, far below. */
const edgeLimitMs = 3 * 60_000;
/** A configuration with many drivers that all hang: each is waited for. */
const taskLimitMs = 30 * 60_000;

export function startLeasedExporter(options: LeasedExporterOptions): LeasedExporter {
  const { exporter, controller, clock, config, env } = options;
  const work = options.work ?? { openScope: openLeaseScope, runHook, killLeftoverHooks };
  const log = exporter.logs.logger({ source: "system", logger: "exporter" });
  const over = new AbortController();
  /** Aborted before `over`, so that the goodbye is the last that the controller hears. */
  const leaving = new AbortController();
  const reporter = new StatusReporter({ controller, clock, log });
  const waiting: (() => Promise<void>)[] = [];
  let free = Promise.resolve();
  const heart = new Heart(clock);
  let scope: LeaseScope | undefined;
  let audit: LeaseAudit | undefined;
  /** What went wrong with the lease, for the audit log. */
  let failure: string | undefined;
  let leaseSince: Date | undefined;
  let abandoned = false;
  let exit: (exitCode: number) => void;
  const done = new Promise<number>((resolve) => (exit = resolve));

  const loop = new LeaseLoop(() => {
    const { hooks, exitOnLeaseEnd } = config();
    return {
      hooks: { beforeLease: hooks.beforeLease !== null, afterLease: hooks.afterLease !== null },
      exitOnLeaseEnd,
    };
  }, perform);

  function perform(effect: LeaseEffect, dispatch: (event: LeaseEvent) => void): void {
    if (abandoned) return;
    switch (effect.do) {
      case "tell":
        if (effect.who !== "controller") scope?.session.status.set(effect.status, effect.message);
        if (effect.who !== "clients") reporter.report(effect.status, effect.message);
        return;
      case "begin":
        begin(effect.lease).then(
          () => dispatch({ kind: "begun" }),
          (error: unknown) => dispatch({ kind: "begun", error: toAgentError(error).message }),
        );
        return;
      case "runHook":
        void hook(effect.hook, effect.lease).then((result) => dispatch({ kind: "hookDone", result }));
        return;
      case "openGate":
        scope?.openGate();
        return;
      case "transfer":
        exporter.logs.context = contextOf(effect.lease);
        log.info(`Lease ${effect.lease.name} goes over to client ${effect.lease.client}`);
        audit?.client(effect.lease.client);
        scope?.cutTunnels();
        return;
      case "settle":
        void clock.sleep(settleMs).then(() => dispatch({ kind: "settled" }));
        return;
      case "release":
        void release(effect.lease).then(() => dispatch({ kind: "released" }));
        return;
      case "clean":
        void clean().then(() => dispatch({ kind: "cleaned" }));
        return;
      case "unregister":
        void farewell().then(() => dispatch({ kind: "unregistered" }));
        return;
      case "exit":
        leave();
        exit(effect.exitCode);
    }
  }

  async function begin(lease: Lease): Promise<void> {
    await free;
    await heart.during("the lease does not begin", edgeLimitMs, () => open(lease));
  }

  async function open(lease: Lease): Promise<void> {
    leaseSince = clock.wall();
    exporter.logs.context = contextOf(lease);
    log.info(`Lease ${lease.name} begins`);
    const { name, client, context } = lease;
    audit = options.audit?.begin({ exporter: exporter.name, lease: name, client, context });
    scope = await work.openScope({
      exporter,
      motd: config().motd ?? undefined,
      endSession: () => {
        loop.dispatch({ kind: "endSession" });
        return { success: true, message: "Session end triggered, afterLease hook running asynchronously" };
      },
      listen: (signal) => listenForClients({ controller, lease: lease.name, clock, log, signal }),
      dial: options.dial,
      directoryPrefix: options.directoryPrefix,
      clock,
    });
    scope.session.observer = audit;
    if (abandoned) await clean();
  }

  async function hook(name: HookName, lease: Lease): Promise<HookOutcome> {
    const settings = config().hooks[name];
    if (settings === null || scope === undefined) return { kind: "ok" };
    const { session, hookSocket, directory } = scope;
    const outcome = await work.runHook(name, settings, {
      ...{ lease: lease.name, client: lease.client, hookSocket, directory, logs: exporter.logs, env },
      signal: over.signal,
    });
    if (outcome.kind === "failed") failure = outcome.error;
    audit?.event(name, { outcome: outcome.kind });
    if (outcome.motd !== undefined) session.motd = [session.motd, outcome.motd].filter(Boolean).join("\n");
    return outcome;
  }

  async function release(lease: string): Promise<void> {
    const limitMs = loop.state.stop?.when === "now" ? farewellMs : releaseLimitMs;
    await within(limitMs, (signal) => releaseLease(lease, { controller, reporter, clock, log, signal }));
  }

  async function clean(): Promise<void> {
    await heart.during("the lease does not end", edgeLimitMs, () => cleanUp());
    for (const task of waiting.splice(0)) await task();
  }

  async function cleanUp(): Promise<void> {
    const ended = scope;
    scope = undefined;
    if (ended !== undefined) {
      // What hooks have left in the background belongs to the lease.
      await work.killLeftoverHooks(ended.directory);
      await ended.close().catch((error: unknown) => {
        log.error(`the lease could not be cleaned up: ${toAgentError(error).message}`);
      });
      log.info("The lease is over, nothing of it is left");
    }
    audit?.end({ outcome: failure === undefined ? "completed" : "failed", reason: failure });
    audit = undefined;
    failure = undefined;
    exporter.logs.context = {};
  }

  /** Says goodbye, as far as the controller listens. */
  async function farewell(): Promise<void> {
    // A registration that is on its way would undo the goodbye.
    leaving.abort();
    if (!link.registered) return;
    await within(farewellMs, async (signal) => {
      await reporter.flush(signal);
      await controller.unregister("Exporter shutdown", signal);
    });
  }

  /** Bounded work whose failure is only told. */
  async function within(limitMs: number, work: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
    const ended = new AbortController();
    const late = clock.sleep(limitMs, ended.signal).then(
      () => ended.abort(new Error("it took too long")),
      () => {},
    );
    await Promise.race([late, work(ended.signal)]).catch((error: unknown) => {
      log.warn(`the controller could not be told: ${toAgentError(error).message}`);
    });
    ended.abort();
  }

  function leave(): void {
    leaving.abort();
    over.abort();
    reporter.stop();
  }

  const link = startControllerLink({
    controller,
    registration: () => {
      const { labels, reports } = report(exporter);
      return { labels, reports };
    },
    firstRegistered: () => {
      reporter.report("AVAILABLE", "Exporter registered and available");
      log.info(`Exporter ${exporter.name} is ready: registered with its controller`);
      options.registered();
    },
    reconnected: () => reporter.reconnected(),
    told: ({ leased, leaseName, clientName, context }) => {
      const lease = leased && leaseName ? { name: leaseName, client: clientName ?? "", context } : null;
      loop.dispatch({ kind: "assigned", lease });
    },
    refreshCredentials: options.refreshCredentials,
    backoff: new Backoff(),
    clock,
    log,
    signal: leaving.signal,
  });

  return {
    get state() {
      return loop.state;
    },
    get online() {
      return link.online;
    },
    get overdue() {
      return heart.overdue;
    },
    get registered() {
      return link.registered;
    },
    get connections() {
      return link.connections;
    },
    get leaseSince() {
      return leaseSince;
    },
    stop: (when, exitCode) => loop.dispatch({ kind: "stop", when, exitCode }),
    whenFree(work) {
      const task = () => heart.during("the drivers are not changed", taskLimitMs, work);
      if (loop.state.phase === "available") {
        const done = free.then(task);
        free = done.catch(() => {});
        return { when: "now", done };
      }
      const done = new Promise<void>((resolve, reject) => waiting.push(() => task().then(resolve, reject)));
      return { when: "at-lease-end", done };
    },
    registerAgain: () => link.registerAgain(),
    async abandon(reason) {
      abandoned = true;
      failure = reason;
      leaving.abort();
      over.abort();
      reporter.report("OFFLINE", reason);
      await Promise.all([clean(), within(farewellMs, (signal) => reporter.flush(signal))]);
      leave();
    },
    done,
  };
}

function contextOf({ name, client, context }: Lease): Record<string, string> {
  return { ...context, lease_id: name, client };
}
