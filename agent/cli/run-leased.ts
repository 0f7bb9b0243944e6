import { exporterDirectories, findExporterConfig, listExporterConfigs } from "../config/search.ts";
import type { ExporterConfig } from "../config/schema.ts";
import { ChannelPool } from "../controller/channel-pool.ts";
import { systemClock } from "../controller/clock.ts";
import { waitForTime } from "../controller/wait-for-time.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { LogBus, type Logger } from "../driver/log.ts";
import { ConfigFile } from "../host/config-file.ts";
import { serveControl } from "../host/control.ts";
import { startHost, type Host } from "../host/host.ts";
import { removeDeadLeases } from "../host/lease-directories.ts";
import type { ReloadReport } from "../host/reload-report.ts";
import { watchFiles, type FileWatcher } from "../host/watch-files.ts";
import { watchLeasesTogether } from "../ops/watch-together.ts";
import { openAudit } from "./audit-option.ts";
import type { globalOptions, Given } from "./command.ts";
import { consoleIn, loadMetrics, startOperations, type OperationsWords } from "./operations.ts";
import { openReceipts } from "./receipt-options.ts";
import { levelOf, startProcessLog, type ProcessLog } from "./process-log.ts";
import type { runOptions } from "./run.ts";
import { startService, type Service, type ServiceState } from "./service.ts";
import { listenForStop } from "./signals.ts";
import { version } from "./version.ts";

type RunOptions = Given<typeof runOptions> & Given<typeof globalOptions>;

/** How long the process may take to end by itself when everything is closed. */
const lingerMs = 500;

/** `jmp-agent run` without a listener: one or more exporters that are leased through their controllers. */
export async function runLeased(given: RunOptions, operations: OperationsWords | undefined): Promise<number> {
  const find = await finder(given);
  const files = await find();
  if (files.length === 0) {
    const { user, system } = exporterDirectories(process.env);
    throw new AgentError("E_CONFIG", "there is no exporter configuration to run", {
      hint: `put one as NAME.yaml into ${user} or ${system}; docs/leases.md shows what it holds`,
    });
  }
  const processLog = await startProcessLog({ level: given["log-level"], format: given["log-format"] });
  let service: Service | undefined;
  try {
    const logs = new LogBus(levelOf(given));
    processLog.follow(logs);
    const log = logs.logger({ source: "system", logger: "jmp-agent" });
    const configured = await loadAll(files, log, { alone: files.length === 1 && given.all !== true });
    service = await startService(log);
    return await serveAll(given, { configured, find, operations, processLog, log, service });
  } finally {
    service?.close();
    processLog.close();
    // Whatever a driver has left behind must not keep the process.
    setTimeout(() => process.exit(), lingerMs).unref();
  }
}

interface Configured {
  readonly file: ConfigFile;
  readonly config: ExporterConfig;
}

/** Reads the configurations; a wrong one is left out if there are others. @throws AgentError E_CONFIG if none is left */
async function loadAll(
  files: readonly ConfigFile[],
  log: Logger,
  { alone }: { alone: boolean },
): Promise<Configured[]> {
  const configured: Configured[] = [];
  for (const file of files) {
    try {
      const { config, warnings } = await file.load();
      for (const warning of warnings) log.warn(warning);
      const twin = configured.find((other) => isSameExporter(other.config, config));
      if (twin !== undefined) {
        throw new AgentError(
          "E_CONFIG",
          `${file.path} is the same exporter as ${twin.file.path}: ${config.metadata.name}`,
        );
      }
      configured.push({ file, config });
    } catch (thrown) {
      const { code, message, hint } = toAgentError(thrown);
      const lines = message.includes("\n") ? `\n${message}` : ` ${message}`;
      const error = new AgentError(code, `Failed to load config:${lines}`, { cause: thrown, hint });
      if (alone) throw error;
      log.error(error.message);
    }
  }
  if (configured.length === 0) throw new AgentError("E_CONFIG", "no exporter configuration can be used");
  return configured;
}

/** Two that register under one name would take each other's leases. */
function isSameExporter(one: ExporterConfig, other: ExporterConfig): boolean {
  const { name, namespace } = other.metadata;
  return one.metadata.name === name && one.metadata.namespace === namespace && one.endpoint === other.endpoint;
}

interface Serving {
  readonly configured: readonly Configured[];
  readonly find: () => Promise<ConfigFile[]>;
  readonly operations: OperationsWords | undefined;
  readonly processLog: ProcessLog;
  readonly log: Logger;
  readonly service: Service;
}

async function serveAll(
  given: RunOptions,
  { configured, find, operations, processLog, log, service }: Serving,
): Promise<number> {
  await removeDeadLeases(process.env);
  service.follow(() => ({ text: "waiting until the time is set", ready: false }));
  // Until the exporters are there, a signal may end the process as it does any other.
  await waitForTime({ clock: systemClock, log });
  const { keepers: receipts, store } = await openReceipts(given, log);
  const audit = await openAudit(given["audit-log"], log);
  const channels = new ChannelPool();
  let host: Host | undefined;
  const metrics = operations && (await loadMetrics())(version, () => host?.status() ?? []);
  const openLogs = (exporter: string) => {
    const logs = new LogBus(levelOf(given));
    processLog.follow(logs, exporter);
    return logs;
  };
  // A port that somebody has is told before any board is touched.
  const listener =
    operations &&
    metrics &&
    (await startOperations(
      operations,
      {
        ...{ version, metrics, receipts: store, audit: given["audit-log"] },
        exporters: () => host?.status() ?? [],
        console: (exporter, driver) => consoleIn(host?.tree(exporter), driver),
        transfers: () => [],
      },
      log,
    ));
  const started = (host = startHost(configured, {
    ...{ clock: systemClock, env: process.env },
    ...{
      channels,
      audit: watchLeasesTogether(audit, metrics?.leases),
      opened: (exporter) => metrics?.opened(exporter),
    },
    ...{ receipts, openLogs, find, log },
  }));
  service.follow(() => hostState(started));
  const signals = listenForStop(
    (exitCode) => process.exit(exitCode),
    ({ signal, exitCode }) => {
      log.info(`${signal}: stopping when the current lease ends`);
      started.stop("leaseEnd", exitCode);
    },
  );
  void signals.requested.then(({ signal, exitCode }) => {
    log.info(`${signal}: stopping`);
    service.stopping();
    started.stop("now", exitCode);
  });
  const control = await serveControl({
    reload: ({ exporter }) => service.reloading(() => started.reload(exporter)),
    status: async () => started.status(),
  }).catch((error: unknown) => {
    log.warn(`jmp-agent reload cannot reach this agent: ${toAgentError(error).message}`);
  });
  const watcher = given.watch === true ? watch(given, configured, { host: started, log, service }) : undefined;
  try {
    return await started.done;
  } finally {
    watcher?.close();
    await control?.close();
    await listener?.close();
    await audit?.close();
    await channels.close();
  }
}

/** `3 exporters, 2 registered, 1 leased` */
function hostState(host: Host): ServiceState {
  const all = host.status();
  const missing = all.reduce((sum, { offline }) => sum + offline.length, 0);
  const counts = [
    `${all.length} ${all.length === 1 ? "exporter" : "exporters"}`,
    `${all.filter(({ online }) => online).length} registered`,
    `${all.filter(({ lease }) => lease !== null).length} leased`,
    ...(missing === 0 ? [] : [`${missing} ${missing === 1 ? "driver" : "drivers"} offline`]),
  ];
  // A controller that does not answer keeps nobody from being ready.
  return {
    text: counts.join(", "),
    ready: all.every(({ state }) => state !== "starting"),
    overdue: host.overdue,
  };
}

/** Reloads when a file changes. */
function watch(
  given: RunOptions,
  configured: readonly Configured[],
  { host, log, service }: { host: Host; log: Logger; service: Service },
): FileWatcher {
  const { user, system } = exporterDirectories(process.env);
  const tell = (what: string, reports: readonly ReloadReport[]) => {
    for (const { exporter, outcome, problems } of reports) {
      if (outcome === "refused") log.error(`${what} is not taken over by ${exporter}: ${problems.join("; ")}`);
    }
  };
  const reload = (what: string) => {
    const reloaded = service.reloading(() => host.reload());
    reloaded.then(
      (reports) => tell(what, reports),
      (error: unknown) => log.error(`${what} is not taken over: ${toAgentError(error).message}`),
    );
  };
  const watcher = watchFiles({
    files: configured.map(({ file }) => file.path),
    directories: given.all === true ? [system, user] : [],
    changed: reload,
  });
  // What has changed between its loading and the first look would never be told.
  void watcher.ready.then(() => reload("the configuration"));
  return watcher;
}

/** Finds the files that belong to this process, now and whenever it is asked to reload. */
async function finder(given: RunOptions): Promise<() => Promise<ConfigFile[]>> {
  const { exporter: aliases = [], "exporter-config": paths = [], all } = given;
  if (all !== true && aliases.length + paths.length === 0) {
    throw new AgentError("E_USAGE", "one of --exporter, --exporter-config should be specified");
  }
  if (aliases.length > 0 && paths.length > 0) {
    throw new AgentError("E_USAGE", "only one of --exporter, --exporter-config should be specified");
  }
  if (all === true && aliases.length + paths.length > 0) {
    throw new AgentError("E_USAGE", "--all cannot be combined with --exporter or --exporter-config");
  }
  const always = given["exit-on-lease-end"] === true ? { exitOnLeaseEnd: true } : {};
  const files = new Map<string, ConfigFile>();
  const fileOf = (path: string) => {
    const file = files.get(path) ?? new ConfigFile(path, always);
    files.set(path, file);
    return file;
  };
  const named = [...paths, ...(await Promise.all(aliases.map((alias) => findExporterConfig(alias))))];
  return async () => [...new Set((all === true ? await listExporterConfigs() : named).map(fileOf))];
}
