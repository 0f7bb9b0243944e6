import { openDatagramSender } from "./unix-datagram.ts";

/** What a service manager is told: sd_notify(3). */
export interface Notification {
  readonly READY?: 1;
  readonly RELOADING?: 1;
  readonly STOPPING?: 1;
  /** The watchdog is fed. */
  readonly WATCHDOG?: 1;
  /** For people, one line. */
  readonly STATUS?: string;
  /** The time of this message, which RELOADING needs. */
  readonly MONOTONIC_USEC?: bigint;
  /** Starting or stopping may take this much longer, from now. */
  readonly EXTEND_TIMEOUT_USEC?: number;
}

export interface ServiceManager {
  /** How long it may hear no WATCHDOG before it kills us; undefined if it does not watch. */
  readonly watchdogMs: number | undefined;
  /** @returns whether it has been told */
  notify(notification: Notification): boolean;
  close(): void;
}

/**
 * The service manager that has started this process, if one wants to be told.
 * What it has put into the environment is taken out of there: programs that we start are not the service.
 * @throws AgentError E_UNSUPPORTED without koffi, or if the manager listens where we cannot reach it
 */
export async function findServiceManager(env: NodeJS.ProcessEnv = process.env): Promise<ServiceManager | undefined> {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: micros, WATCHDOG_PID: watched } = env;
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) delete env[name];
  if (socket === undefined || !/^[/@]./.test(socket)) return undefined;
  const sender = await openDatagramSender(socket);
  const isForUs = watched === undefined || Number(watched) === process.pid;
  return {
    watchdogMs: isForUs && /^[1-9]\d*$/.test(micros ?? "") ? Number(micros) / 1_000 : undefined,
    notify(notification) {
      const lines = Object.entries(notification).map(([name, value]) => `${name}=${oneLine(String(value))}`);
      return sender.send(Buffer.from(lines.join("\n"))) === 0;
    },
    close: () => sender.close(),
  };
}

/** A line break would begin another assignment. */
function oneLine(text: string): string {
  return text.replace(/\s*[\r\n]+\s*/g, " ");
}
