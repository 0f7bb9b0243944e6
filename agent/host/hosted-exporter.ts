import { isDeepStrictEqual } from "node:util";
import type { ExporterConfig } from "../config/schema.ts";
import type { ChannelPool } from "../controller/channel-pool.ts";
import type { Clock } from "../controller/clock.ts";
import { createControllerClient } from "../controller/controller-client.ts";
import { startLeasedExporter, type LeasedExporter } from "../controller/leased-exporter.ts";
import { controllerSettings, type ControllerSettings } from "../controller/settings.ts";
import { startTelemetry, type Telemetry } from "../controller/telemetry.ts";
import type { Catalog } from "../driver/catalog.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { LogBus } from "../driver/log.ts";
import type { DriverTree } from "../driver/tree.ts";
import { describeChange, type DriverChange } from "../driver/replan.ts";
import type { SharedObjects } from "../driver/shared-objects.ts";
import type { AuditLog } from "../ops/audit.ts";
import { driversStatus, type ExporterStatus } from "../ops/exporter-status.ts";
import type { ReceiptKeepers } from "../ops/receipts/keeper.ts";
import { createExporter, type Exporter } from "../session/exporter.ts";
import { changedKeys, changesIdentity } from "./config-changes.ts";
import type { ConfigFile } from "./config-file.ts";
import { shutDownLauncher } from "./launcher.ts";
import { leaseDirectoryPrefix } from "./lease-directories.ts";
import { openTunnel } from "./open-tunnel.ts";
import { RapidFailures } from "./rapid-failures.ts";
import type { ReloadReport } from "./reload-report.ts";

/** What all exporters of a process share. */
export interface HostEnvironment {
  readonly clock: Clock;
  readonly channels: ChannelPool;
  readonly env: NodeJS.ProcessEnv;
  /** Where driver types are looked up; the shipped ones unless given. */
  readonly catalog?: Catalog | undefined;
  readonly audit: Pick<AuditLog, "begin"> | undefined;
  /** Told when an exporter's drivers are open, each time. */
  readonly opened?: ((exporter: Exporter) => void) | undefined;
  /** Where receipts of flashes go; forgotten unless given. */
  readonly receipts?: ReceiptKeepers | undefined;
  /** What drivers of different exporters share: a port of the host. */
  readonly onHost: SharedObjects<object>;
}

/** One exporter of this process, from its drivers' opening to its exit code. */
export interface HostedExporter {
  readonly name: string;
  readonly file: ConfigFile;
  /** What it does now, for people. */
  status(): ExporterStatus;
  /** What of its own work hangs, and only a new process would end. */
  readonly overdue: string | undefined;
  /** Its drivers; undefined while it has none. */
  readonly tree: DriverTree | undefined;
  stop(when: "now" | "leaseEnd", exitCode: number): void;
  /** Something that ran on its behalf threw where nobody caught it: it alone begins anew. */
  fail(error: unknown): void;
  /** Takes over what has changed in the file. */
  reload(): Promise<ReloadReport>;
  /** Serves until it is stopped. @returns the exit code. @throws what keeps it from starting, or from going on */
  run(): Promise<number>;
}

/** After a failure that nobody caught, drivers get this long before they are opened again. */
const restartMs = 1_000;
/** Drivers that hang while they close are left behind after this. */
const closeLimitMs = 8_000;

export function hostExporter(
  file: ConfigFile,
  first: ExporterConfig,
  logs: LogBus,
  host: HostEnvironment,
): HostedExporter {
  const { clock, env } = host;
  const log = logs.logger({ source: "system", logger: "host" });
  let config = first;
  let settings: ControllerSettings;
  let running: { exporter: Exporter; leased: LeasedExporter } | undefined;
  /** What the exporter begins anew with when it has said goodbye. */
  let successor: { config: ExporterConfig; settings: ControllerSettings } | undefined;
  let stopped: { when: "now" | "leaseEnd"; exitCode: number } | undefined;
  /** Between two runs there is nothing that could be ended. */
  const tell = (error: unknown) => log.error(`Uncaught exception: ${toAgentError(error).message}`);
  let fail: (error: unknown) => void = tell;
  /** What it shows while it serves no controller: it may take long to open drivers, or to close them. */
  let apart: "starting" | "stopped" = "starting";

  /** Token and certificates may be renewed on disk at any time; anything else waits for a reload. */
  async function refreshCredentials(): Promise<boolean> {
    if (!(await file.hasChanged())) return false;
    try {
      const { token, tls } = (await file.load()).config;
      const before = settings;
      settings = controllerSettings({ ...config, token, tls }, env);
      return !isDeepStrictEqual(before, settings);
    } catch (error) {
      log.warn(`the configuration cannot be read again: ${toAgentError(error).message}`);
      return false;
    }
  }

  function openDrivers(): Promise<Exporter> {
    const { metadata, description } = config;
    return createExporter({
      name: metadata.name,
      description: description ?? undefined,
      export: config.export,
      logs,
      catalog: host.catalog,
      onHost: host.onHost,
      receipts: host.receipts?.({
        exporter: metadata.name,
        lease: () => running?.leased.state.current?.name,
        exported: () => config.export,
        log,
      }),
    });
  }

  async function serve(exporter: Exporter): Promise<number> {
    const crashed = new Promise<never>((_, reject) => (fail = reject));
    const { channels } = host;
    const controller = createControllerClient({ settings: () => settings, channels });
    let telemetry: Telemetry | undefined;
    const leased = startLeasedExporter({
      exporter,
      config: () => config,
      controller,
      audit: host.audit,
      registered: () => {
        telemetry = startTelemetry({ controller, settings: () => settings, channels, logs, clock });
      },
      dial: (endpoint, token) => openTunnel(channels, settings, endpoint, token),
      clock,
      env,
      directoryPrefix: leaseDirectoryPrefix(env),
      refreshCredentials,
    });
    running = { exporter, leased };
    if (stopped !== undefined) leased.stop(stopped.when, stopped.exitCode);
    try {
      const exitCode = await Promise.race([leased.done, crashed]);
      if (successor === undefined) apart = "stopped";
      return exitCode;
    } catch (error) {
      await leased.abandon(`Exporter failed: ${toAgentError(error).message}`);
      throw error;
    } finally {
      running = undefined;
      fail = tell;
      await closeDrivers(exporter);
      await telemetry?.stop();
    }
  }

  async function closeDrivers(exporter: Exporter): Promise<void> {
    const closed = new AbortController();
    const late = clock.sleep(closeLimitMs, closed.signal).then(
      () => log.error(`drivers did not close within ${closeLimitMs / 1_000} s`),
      () => {},
    );
    await Promise.race([exporter.close(), late]);
    closed.abort();
  }

  async function live(): Promise<number> {
    const failures = new RapidFailures(clock, config.failureDetection);
    settings = controllerSettings(config, env);
    for (const warning of settings.warnings) log.warn(warning);
    for (;;) {
      // What keeps the drivers from opening is the configuration's fault, and trying again would not mend it.
      const exporter = await openDrivers();
      host.opened?.(exporter);
      failures.started();
      try {
        const exitCode = await serve(exporter);
        if (successor === undefined || stopped?.when === "now") {
          if (config.exitOnLeaseEnd) await shutDownLauncher(env, log);
          return exitCode;
        }
        ({ config, settings } = successor);
        successor = undefined;
      } catch (error) {
        const stack = error instanceof Error ? error.stack : undefined;
        log.error(`Exception while serving on the exporter: ${toAgentError(error).message}`, { stack });
        if (stopped !== undefined) return stopped.exitCode;
        if (failures.failed()) {
          const { maxRapidFailures, rapidFailureWindow } = config.failureDetection;
          throw new AgentError(
            "E_FAILED",
            `the exporter failed ${maxRapidFailures} times within ${rapidFailureWindow} s each`,
          );
        }
        await clock.sleep(restartMs);
      }
    }
  }

  /** Takes over what has changed in the file, as soon as no lease is served. */
  async function reload(): Promise<ReloadReport> {
    const report = (outcome: ReloadReport["outcome"], changes: string[] = [], problems: string[] = []) => ({
      ...{ exporter: config.metadata.name, outcome, changes, problems },
    });
    let next: ExporterConfig;
    try {
      next = (await file.load()).config;
    } catch (error) {
      return report("refused", [], toAgentError(error).message.split("\n"));
    }
    const changes = changedKeys(config, next);
    if (changes.length === 0) return report("unchanged");
    if (running === undefined) return report("refused", [], ["the exporter is starting again after a failure"]);
    const { exporter, leased } = running;
    const nextSettings = controllerSettings(next, env);
    if (changesIdentity(changes)) {
      // Another name or another controller: the old exporter says goodbye, and the new one registers.
      successor = { config: next, settings: nextSettings };
      const idle = leased.state.phase === "available";
      leased.stop("leaseEnd", 0);
      return report(idle ? "reloaded" : "at-lease-end", changes);
    }
    const planned = await exporter.plan({ export: next.export, description: next.description ?? undefined });
    const described = (drivers: readonly DriverChange[]) => [
      ...changes.filter((key) => key !== "export"),
      ...drivers.map(describeChange),
    ];
    let changed = exporter.tree.compare(planned);
    const { when, done } = leased.whenFree(async () => {
      changed = await exporter.tree.replan(planned);
      config = next;
      settings = nextSettings;
      leased.registerAgain();
      log.info(`The configuration is reloaded: ${described(changed).join(", ")}`);
    });
    done.catch((error: unknown) => log.error(`the configuration is not reloaded: ${toAgentError(error).message}`));
    if (when === "at-lease-end") return report("at-lease-end", described(changed));
    await done;
    return report("reloaded", described(changed));
  }

  return {
    get name() {
      return config.metadata.name;
    },
    file,
    status() {
      const { phase, current } = running?.leased.state ?? { phase: apart, current: null };
      return {
        exporter: config.metadata.name,
        config: file.path,
        state: phase,
        registered: running?.leased.registered ?? false,
        online: running?.leased.online ?? false,
        connections: running?.leased.connections ?? 0,
        lease: current?.name ?? null,
        client: current?.client ?? null,
        leaseSince: current === null ? null : (running?.leased.leaseSince?.toISOString() ?? null),
        ...driversStatus(running?.exporter.tree),
      };
    },
    get overdue() {
      return running?.leased.overdue;
    },
    get tree() {
      return running?.exporter.tree;
    },
    stop(when, exitCode) {
      stopped ??= { when, exitCode };
      if (when === "now") stopped = { when, exitCode };
      running?.leased.stop(when, exitCode);
    },
    fail: (error) => fail(error),
    reload,
    run: live,
  };
}
