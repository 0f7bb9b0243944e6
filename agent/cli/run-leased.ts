import { exporterDirectories, findExporterConfig, listExporterConfigs } from "../config/search.ts";
import { ChannelPool } from "../controller/channel-pool.ts";
import { systemClock } from "../controller/clock.ts";
import { waitForTime } from "../controller/wait-for-time.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { LogBus, type Logger, type Severity } from "../driver/log.ts";
import { ConfigFile } from "../host/config-file.ts";
import { serveControl } from "../host/control.ts";
import { startHost, type Host } from "../host/host.ts";
import { removeDeadLeases } from "../host/lease-directories.ts";
import { watchFiles, type FileWatcher } from "../host/watch-files.ts";
import type { globalOptions, Given } from "./command.ts";
import { startProcessLog } from "./process-log.ts";
import type { runOptions } from "./run.ts";
import { listenForStop } from "./signals.ts";

/** How long the process may take to end by itself when everything is closed. */
const lingerMs = 500;

/** `jmp-agent run` without a listener: one or more exporters that are leased through their controllers. */
export async function runLeased(given: Given<typeof runOptions> & Given<typeof globalOptions>): Promise<number> {
  const find = await finder(given);
  const found = await find();
  const alone = found.length === 1 && given.all !== true;
  if (found.length === 0) throw new AgentError("E_CONFIG", "there is no exporter configuration to run");

  const processLog = await startProcessLog({ level: given["log-level"], format: given["log-format"] });
  const level = (given["log-level"]?.toUpperCase() ?? "INFO") as Severity;
  const logs = new LogBus();
  processLog.follow(logs);
  const log = logs.logger({ source: "system", logger: "jmp-agent", level });
  try {
    const configured = [];
    for (const file of found) {
      try {
        const { config, warnings } = await file.load();
        for (const warning of warnings) log.warn(warning);
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

    let host: Host | undefined;
    const stop = listenForStop(
      (exitCode) => process.exit(exitCode),
      ({ signal, exitCode }) => {
        log.info(`${signal}: stopping when the current lease ends`);
        host?.stop("leaseEnd", exitCode);
      },
    );
    await removeDeadLeases(process.env);
    await waitForTime({ clock: systemClock, log, signal: stop.signal });
    const channels = new ChannelPool();
    host = startHost(configured, {
      clock: systemClock,
      channels,
      env: process.env,
      log,
      openLogs: (exporter) => {
        const exporterLogs = new LogBus();
        processLog.follow(exporterLogs, exporter);
        return exporterLogs;
      },
      find,
    });
    const running = host;
    void stop.requested.then(({ signal, exitCode }) => {
      log.info(`${signal}: stopping`);
      running.stop("now", exitCode);
    });
    const control = await serveControl({
      reload: ({ exporter }) => running.reload(exporter),
      status: async () => running.status(),
    }).catch((error: unknown) => {
      log.warn(`jmp-agent reload cannot reach this agent: ${toAgentError(error).message}`);
    });
    const watcher = given.watch === true ? watch(given, found, running, log) : undefined;
    try {
      return await running.done;
    } finally {
      watcher?.close();
      await control?.close();
      await channels.close();
    }
  } finally {
    processLog.close();
    setTimeout(() => process.exit(), lingerMs).unref();
  }
}

function watch(given: Given<typeof runOptions>, files: readonly ConfigFile[], host: Host, log: Logger): FileWatcher {
  const { user, system } = exporterDirectories(process.env);
  return watchFiles({
    files: files.map(({ path }) => path),
    directories: given.all === true ? [system, user] : [],
    changed: (path) => {
      void host.reload().then((reports) => {
        for (const { exporter, outcome, problems } of reports) {
          if (outcome === "refused") log.error(`${path} is not taken over by ${exporter}: ${problems.join("; ")}`);
        }
      });
    },
  });
}

/** Finds the files that belong to this process, now and whenever it is asked to reload. */
async function finder(given: Given<typeof runOptions>): Promise<() => Promise<ConfigFile[]>> {
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
  return async () => (all === true ? await listExporterConfigs() : named).map(fileOf);
}
