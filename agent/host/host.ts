/** Many exporters in one process. They share its code and its connections to controllers, and nothing else. */
import { AsyncLocalStorage } from "node:async_hooks";
import type { ExporterConfig } from "../config/schema.ts";
import { toAgentError } from "../driver/errors.ts";
import type { Logger, LogBus } from "../driver/log.ts";
import type { DriverTree } from "../driver/tree.ts";
import { SharedObjects } from "../driver/shared-objects.ts";
import type { ExporterStatus } from "../ops/exporter-status.ts";
import type { ConfigFile } from "./config-file.ts";
import { hostExporter, type HostedExporter, type HostEnvironment } from "./hosted-exporter.ts";
import type { ReloadReport } from "./reload-report.ts";

export interface HostOptions extends Omit<HostEnvironment, "onHost"> {
  readonly log: Logger;
  /** A log for one exporter, on its way to wherever logs go. */
  readonly openLogs: (exporter: string) => LogBus;
  /** The configurations that belong to this host now, for a reload that finds new and gone ones; the first ones if absent. */
  readonly find?: () => Promise<ConfigFile[]>;
}

export interface Host {
  status(): ExporterStatus[];
  /** An exporter that hangs, and in what; undefined while all are well, whatever their controllers do. */
  readonly overdue: string | undefined;
  /** The drivers of an exporter, by its name; undefined while it has none. */
  tree(exporter: string): DriverTree | undefined;
  stop(when: "now" | "leaseEnd", exitCode: number): void;
  reload(only?: string): Promise<ReloadReport[]>;
  /** Settles when the last exporter has ended, with the first exit code that is not 0. */
  readonly done: Promise<number>;
}

/** Starts exporters; one that cannot start is told and left out. */
export function startHost(files: readonly { file: ConfigFile; config: ExporterConfig }[], options: HostOptions): Host {
  const { log } = options;
  const environment: HostEnvironment = { ...options, onHost: new SharedObjects() };
  const exporters = new Map<string, HostedExporter>();
  const whose = new AsyncLocalStorage<HostedExporter>();
  let exitCode = 0;
  let finish: (exitCode: number) => void;
  const done = new Promise<number>((resolve) => (finish = resolve));

  const start = (file: ConfigFile, config: ExporterConfig) => {
    const exporter = hostExporter(file, config, options.openLogs(config.metadata.name), environment);
    exporters.set(file.path, exporter);
    void whose
      .run(exporter, () => exporter.run())
      .catch((error: unknown) => {
        const { message, hint } = toAgentError(error);
        log.error(`Exporter ${exporter.name} cannot go on: ${message}${hint === undefined ? "" : ` (${hint})`}`);
        return 1;
      })
      .then((code) => {
        if (exporters.get(file.path) === exporter) exporters.delete(file.path);
        exitCode ||= code;
        if (exporters.size === 0) finish(exitCode);
      });
  };

  // A call that goes wrong in a way its driver forgot must not end anything else.
  const onRejection = (reason: unknown) => log.error(`Unhandled rejection: ${toAgentError(reason).message}`);
  process.on("unhandledRejection", onRejection);
  // Code that an exporter started throws in that exporter's context, however late.
  const onException = (error: unknown) => {
    const exporter = whose.getStore();
    if (exporter !== undefined) return exporter.fail(error);
    log.error(`Uncaught exception: ${toAgentError(error).message}`);
    stop("now", 1);
  };
  process.on("uncaughtException", onException);

  const stop = (when: "now" | "leaseEnd", code: number) => {
    for (const exporter of exporters.values()) exporter.stop(when, code);
  };

  for (const { file, config } of files) start(file, config);
  return {
    status: () => [...exporters.values()].map((exporter) => exporter.status()),
    get overdue() {
      const [first] = [...exporters.values()].filter(({ overdue }) => overdue !== undefined);
      return first?.overdue === undefined ? undefined : `${first.name}: ${first.overdue}`;
    },
    tree: (name) => [...exporters.values()].find((exporter) => exporter.name === name)?.tree,
    stop,
    async reload(only) {
      const reports: ReloadReport[] = [];
      const found = (await options.find?.()) ?? [];
      for (const file of found) {
        if (exporters.has(file.path)) continue;
        const report = { changes: [], problems: [] };
        try {
          const { config } = await file.load();
          if (only !== undefined && only !== config.metadata.name) continue;
          start(file, config);
          reports.push({ ...report, exporter: config.metadata.name, outcome: "started" });
        } catch (error) {
          const problems = toAgentError(error).message.split("\n");
          reports.push({ ...report, exporter: file.path, outcome: "refused", problems });
        }
      }
      for (const [path, exporter] of exporters) {
        if (only !== undefined && only !== exporter.name) continue;
        if (options.find !== undefined && !found.some((file) => file.path === path)) {
          exporter.stop("leaseEnd", 0);
          reports.push({ exporter: exporter.name, outcome: "stopped", changes: [], problems: [] });
        } else if (!reports.some((report) => report.exporter === exporter.name)) {
          reports.push(await exporter.reload());
        }
      }
      return reports;
    },
    done: done.finally(() => {
      process.off("unhandledRejection", onRejection);
      process.off("uncaughtException", onException);
    }),
  };
}
