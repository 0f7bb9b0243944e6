import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import type { ExporterConfig } from "../config/schema.ts";
import { toAgentError } from "../driver/errors.ts";
import { LogBus, type Logger, type Severity } from "../driver/log.ts";
import { createExporter, type Exporter } from "../session/exporter.ts";
import { serve, type Served } from "../session/server.ts";
import { createDirectSession, type Session } from "../session/session.ts";
import { defineCommand } from "./command.ts";
import { demandExporterConfig, exporterOptions, loadExporterConfig } from "./exporter-config.ts";
import { listenerOptions, readListeners, type Listeners } from "./listeners.ts";
import { startProcessLog } from "./process-log.ts";
import { listenForStop } from "./signals.ts";
import { claimSocketPath } from "./unix-socket.ts";

/** Calls that run when the exporter stops may take this long to end by themselves; then they are aborted. */
const graceMs = 1_000;
/** How long the process may take to end by itself when everything is closed. */
const lingerMs = 500;
/** Whatever hangs while closing: after this the process ends anyway. */
const shutdownLimitMs = 8_000;

export const run = defineCommand({
  name: "run",
  summary: "Serve the drivers of an exporter configuration until a signal comes.",
  options: {
    ...exporterOptions,
    ...listenerOptions,
  },
  notes: `
Environment:
  JMP_PASSPHRASE           the passphrase, if neither option gives it
  JMP_NAME, JMP_NAMESPACE  the exporter's name and namespace, where the configuration gives none
  JMP_CLIENT_CONFIG_HOME   directory with exporters/ALIAS.yaml, instead of ~/.config/jumpstarter

Examples:
  jmp-agent run --exporter-config bench.yaml --unix /run/user/1000/bench.sock
  jmp-agent run --exporter bench --tls-grpc-listener 1234 --tls-cert bench.crt --tls-key bench.key`,

  async run(given) {
    demandExporterConfig(given);
    const listeners = await readListeners(given, process.env);
    hidePassphrase(given.passphrase);
    delete process.env["JMP_PASSPHRASE"];
    const { config, warnings } = await loadExporterConfig(given);
    if (listeners.unix !== undefined) await claimSocketPath(listeners.unix);

    const logs = new LogBus();
    const processLog = await startProcessLog(logs, {
      level: given["log-level"],
      format: given["log-format"],
      exporter: config.metadata.name,
    });
    try {
      const level = (given["log-level"]?.toUpperCase() ?? "INFO") as Severity;
      const log = logs.logger({ source: "system", logger: "jmp-agent", level });
      for (const warning of warnings) log.warn(warning);
      return await runExporter(config, listeners, logs, log);
    } finally {
      processLog.close();
      // Whatever a driver has left behind must not keep the process.
      setTimeout(() => process.exit(), lingerMs).unref();
    }
  },
});

/** From opened drivers to closed ones: reset, serve, wait for a signal, close. Answers the exit code. */
async function runExporter(config: ExporterConfig, listeners: Listeners, logs: LogBus, log: Logger): Promise<number> {
  const stop = listenForStop((exitCode) => process.exit(exitCode));
  // One call that goes wrong in a way its driver forgot must not end the others.
  process.on("unhandledRejection", (reason) => log.error(`Unhandled rejection: ${toAgentError(reason).message}`));
  // What nobody caught leaves unknown damage: close in good order and let the service manager start again.
  const broken = new Promise<never>((_, reject) => process.once("uncaughtException", reject));
  if (config.hooks.beforeLease !== null || config.hooks.afterLease !== null) {
    log.warn("hooks are configured, but this version does not run them");
  }
  const exporter = await createExporter({
    name: config.metadata.name,
    description: config.description ?? undefined,
    export: config.export,
    logs,
  });
  const served: Served[] = [];
  try {
    await exporter.tree.reset();
    const session = createDirectSession(exporter, { motd: config.motd ?? undefined });
    if (listeners.unix !== undefined) served.push(await serveOnSocket(session, listeners.unix));
    if (listeners.tcp !== undefined) served.push(await serve(session, listeners.tcp));
    announce(config.metadata.name, listeners, log);
    const { signal, exitCode } = await Promise.race([stop.requested, broken]);
    log.info(`${signal}: stopping`);
    return exitCode;
  } finally {
    await closeAll(exporter, served, log);
  }
}

async function serveOnSocket(session: Session, path: string): Promise<Served> {
  // Nobody else may connect, not even between bind and chmod.
  const umask = process.umask(0o177);
  try {
    return await serve(session, { unix: path });
  } finally {
    process.umask(umask);
  }
}

/** Says that the exporter is ready, and what to type to reach it. */
function announce(name: string, { tcp, unix }: Listeners, log: Logger): void {
  if (tcp !== undefined) {
    if (tcp.passphrase !== undefined && tcp.tls === undefined) {
      log.warn(
        "--passphrase with --tls-grpc-insecure: the passphrase will be transmitted in plaintext, clear to whoever listens",
      );
    }
    const host = ["0.0.0.0", "::"].includes(tcp.host) ? hostname() : tcp.host;
    const words = [
      tcp.tls === undefined ? " --tls-grpc-insecure" : "",
      tcp.passphrase === undefined ? "" : " --passphrase …",
    ];
    const address = `${host.includes(":") ? `[${host}]` : host}:${tcp.port}`;
    log.info(`Exporter ${name} is ready: jmp shell --tls-grpc ${address}${words.join("")}`);
  }
  if (unix !== undefined) log.info(`Exporter ${name} is ready: JUMPSTARTER_HOST=${unix} j --help`);
}

/** Ends sessions, then drivers. Bounded: what hangs is left behind, and the process ends. */
export async function closeAll(
  exporter: Pick<Exporter, "close">,
  served: readonly Served[],
  log: Pick<Logger, "error">,
  limitMs = shutdownLimitMs,
): Promise<void> {
  const closing = (async () => {
    await Promise.all(served.map((listener) => listener.close(graceMs)));
    await exporter.close();
  })();
  const limit = new AbortController();
  const late = sleep(limitMs, "late", { signal: limit.signal }).catch(() => "in time");
  if ((await Promise.race([closing, late])) === "late") {
    log.error(`drivers did not close within ${limitMs / 1_000} s`);
  }
  limit.abort();
}

/** The process list shows arguments to every user: what was given there is blotted out. */
function hidePassphrase(passphrase: string | undefined): void {
  if (passphrase === undefined) return;
  const words = process.argv.map((word) => word.replace(passphrase, "***"));
  process.title = [process.argv0, ...words.slice(1)].join(" ");
}
