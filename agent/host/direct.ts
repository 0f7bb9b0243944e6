/** Direct mode: one exporter without a controller, which serves whoever reaches its listeners. */
import { setTimeout as sleep } from "node:timers/promises";
import type { ExporterConfig } from "../config/schema.ts";
import type { LogBus, Logger } from "../driver/log.ts";
import type { ReceiptKeepers } from "../ops/receipts/keeper.ts";
import { createExporter, type Exporter } from "../session/exporter.ts";
import type { SessionObserver } from "../session/observer.ts";
import { serve, type Served, type TcpListener } from "../session/server.ts";
import { createDirectSession, type Session } from "../session/session.ts";
import { openStandaloneHooks, type StandaloneHooks } from "./standalone-hooks.ts";

export interface DirectOptions {
  readonly config: ExporterConfig;
  readonly tcp: Omit<TcpListener, "limits"> | undefined;
  /** Path of a unix socket. */
  readonly unix: string | undefined;
  readonly logs: LogBus;
  readonly env: NodeJS.ProcessEnv;
  readonly observer: SessionObserver | undefined;
  /** Where receipts of flashes go; forgotten unless given. */
  readonly receipts?: ReceiptKeepers | undefined;
  /** Told when the drivers are open. */
  readonly opened?: (exporter: Exporter) => void;
  /** Called when clients can work. */
  readonly ready: () => void;
  /** Settles with the exit code when the exporter shall stop; rejects when it must. */
  readonly stop: Promise<number>;
}

/** Calls that run when the exporter stops may take this long to end by themselves; then they are aborted. */
const graceMs = 1_000;
/** Whatever hangs while closing: after this the process ends anyway. */
const shutdownLimitMs = 8_000;

/** From opened drivers to closed ones: reset, serve, beforeLease, wait, afterLease, close. Answers the exit code. */
export async function runDirect({
  config,
  tcp,
  unix,
  logs,
  env,
  observer,
  receipts,
  opened,
  ready,
  stop,
}: DirectOptions): Promise<number> {
  const log = logs.logger({ source: "system", logger: "jmp-agent" });
  const exporter = await createExporter({
    name: config.metadata.name,
    description: config.description ?? undefined,
    export: config.export,
    logs,
    receipts: receipts?.({ exporter: config.metadata.name, exported: () => config.export, log }),
  });
  opened?.(exporter);
  const served: Served[] = [];
  let hooks: StandaloneHooks | undefined;
  try {
    await exporter.tree.reset();
    const session = createDirectSession(exporter, { motd: config.motd ?? undefined, ready: false });
    session.observer = observer;
    hooks = await openStandaloneHooks(session, config.hooks, env);
    // Open before the hook runs, so that clients can watch what it says.
    if (unix !== undefined) served.push(await serveOnSocket(session, unix));
    if (tcp !== undefined) served.push(await serve(session, tcp));
    const begun = await hooks.before();
    if (begun === "exit") return 1;
    if (begun === "ready") ready();
    return await stop;
  } finally {
    await hooks?.after();
    await closeAll(exporter, hooks === undefined ? served : [...served, hooks], log);
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

/** Ends sessions, then drivers. Bounded: what hangs is left behind, and the process ends. */
export async function closeAll(
  exporter: Pick<Exporter, "close" | "tree">,
  served: readonly Pick<Served, "close">[],
  log: Pick<Logger, "error">,
  limitMs = shutdownLimitMs,
): Promise<void> {
  const closing = (async () => {
    await Promise.all(served.map((listener) => listener.close(graceMs)));
    await exporter.tree.release();
    await exporter.close();
  })();
  const limit = new AbortController();
  const late = sleep(limitMs, "late", { signal: limit.signal }).catch(() => "in time");
  if ((await Promise.race([closing, late])) === "late") {
    log.error(`drivers did not close within ${limitMs / 1_000} s`);
  }
  limit.abort();
}
