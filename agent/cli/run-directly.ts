import { hostname } from "node:os";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { LogBus, type Logger } from "../driver/log.ts";
import type { DriverTree } from "../driver/tree.ts";
import { runDirect } from "../host/direct.ts";
import type { AuditLog } from "../ops/audit.ts";
import { driversStatus, type ExporterStatus } from "../ops/exporter-status.ts";
import { observeTogether } from "../ops/watch-together.ts";
import { openAudit } from "./audit-option.ts";
import { removeDeadLeases } from "../host/lease-directories.ts";
import type { globalOptions, Given } from "./command.ts";
import { loadExporterConfig } from "./exporter-config.ts";
import { consoleIn, loadMetrics, startOperations, type OperationsWords } from "./operations.ts";
import { openReceipts } from "./receipt-options.ts";
import type { Listeners } from "./listeners.ts";
import { levelOf, startProcessLog } from "./process-log.ts";
import type { runOptions } from "./run.ts";
import { startService, type Service } from "./service.ts";
import { listenForStop } from "./signals.ts";
import { claimSocketPath } from "./unix-socket.ts";
import { version } from "./version.ts";

/** How long the process may take to end by itself when everything is closed. */
const lingerMs = 500;

/** `jmp-agent run` with a listener: one exporter without a controller. */
export async function runDirectly(
  given: Given<typeof runOptions> & Given<typeof globalOptions>,
  listeners: Listeners,
  operations: OperationsWords | undefined,
): Promise<number> {
  hidePassphrase(given.passphrase);
  const { config, warnings } = await loadExporterConfig(onlyOne(given));
  if (listeners.unix !== undefined) await claimSocketPath(listeners.unix);

  const logs = new LogBus(levelOf(given));
  const processLog = await startProcessLog({ level: given["log-level"], format: given["log-format"] });
  processLog.follow(logs, config.metadata.name);
  let audit: AuditLog | undefined;
  let service: Service | undefined;
  let listener: Awaited<ReturnType<typeof startOperations>> | undefined;
  try {
    const log = logs.logger({ source: "system", logger: "jmp-agent" });
    for (const warning of warnings) log.warn(warning);
    const manager = (service = await startService(log));
    const stop = listenForStop((exitCode) => process.exit(exitCode));
    // One call that goes wrong in a way its driver forgot must not end the others.
    process.on("unhandledRejection", (reason) => log.error(`Unhandled rejection: ${toAgentError(reason).message}`));
    // What nobody caught leaves unknown damage: close in good order and let the service manager start again.
    const broken = new Promise<never>((_, reject) => process.once("uncaughtException", reject));
    const requested = stop.requested.then(({ signal, exitCode }) => {
      log.info(`${signal}: stopping`);
      manager.stopping();
      return exitCode;
    });
    await removeDeadLeases(process.env);
    audit = await openAudit(given["audit-log"], log);
    const { keepers: receipts, store } = await openReceipts(given, log);
    const { name } = config.metadata;
    let tree: DriverTree | undefined;
    let serving = false;
    const status = () => [directStatus(name, given, tree, serving)];
    const metrics = operations && (await loadMetrics())(version, status);
    if (operations !== undefined && metrics !== undefined) {
      const operated = {
        ...{ version, metrics, receipts: store, audit: given["audit-log"] },
        exporters: status,
        console: (exporter: string, driver: string) => (exporter === name ? consoleIn(tree, driver) : undefined),
        transfers: () => [],
      };
      listener = await startOperations(operations, operated, log);
    }
    return await runDirect({
      ...{ config, logs, ...listeners, env: process.env },
      receipts,
      observer: observeTogether(
        audit?.begin({ exporter: name, lease: "standalone", client: "" }),
        metrics?.observer(name),
      ),
      opened: (exporter) => {
        tree = exporter.tree;
        metrics?.opened(exporter);
      },
      ready: () => {
        serving = true;
        announce(name, listeners, log);
        manager.follow(() => ({ text: `exporter ${name} serves directly`, ready: true }));
      },
      stop: Promise.race([requested, broken]),
    });
  } finally {
    await audit?.close();
    service?.close();
    await listener?.close();
    processLog.close();
    // Whatever a driver has left behind must not keep the process.
    setTimeout(() => process.exit(), lingerMs).unref();
  }
}

/** What the one exporter does; whoever serves without a controller has nothing to wait for. */
function directStatus(
  exporter: string,
  given: Given<typeof runOptions>,
  tree: DriverTree | undefined,
  serving: boolean,
): ExporterStatus {
  return {
    ...{ exporter, config: given["exporter-config"]?.[0] ?? given.exporter?.[0] ?? "" },
    ...{ state: serving ? "serving" : "starting", registered: serving, online: serving, connections: 0 },
    ...{ lease: null, client: null, leaseSince: null },
    ...driversStatus(tree),
  };
}

function onlyOne(given: Given<typeof runOptions>) {
  const { exporter, "exporter-config": path, all } = given;
  if (given.watch === true || given["exit-on-lease-end"] === true) {
    throw new AgentError("E_USAGE", "--watch and --exit-on-lease-end are for exporters that are leased");
  }
  if (all === true || (exporter?.length ?? 0) > 1 || (path?.length ?? 0) > 1) {
    throw new AgentError("E_USAGE", "a listener serves one exporter", {
      hint: "give one --exporter or --exporter-config, or no listener",
    });
  }
  return {
    ...(exporter?.[0] === undefined ? {} : { exporter: exporter[0] }),
    ...(path?.[0] === undefined ? {} : { "exporter-config": path[0] }),
  };
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

/** The process list shows arguments to every user: what was given there is blotted out. */
function hidePassphrase(passphrase: string | undefined): void {
  if (passphrase === undefined) return;
  const words = process.argv.map((word) => word.replace(passphrase, "***"));
  process.title = [process.argv0, ...words.slice(1)].join(" ");
}
