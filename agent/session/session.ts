import type { Exporter } from "./exporter.ts";
import { LogRing } from "./log-stream.ts";
import type { SessionObserver } from "./observer.ts";
import { SessionStatus } from "./status.ts";

/** What EndSession answers. */
export interface SessionEnding {
  readonly success: boolean;
  readonly message: string;
}

export interface SessionOptions {
  /** Printed before an interactive shell; the beforeLease hook may add to it. */
  readonly motd?: string | undefined;
  /** Called by every EndSession of a client. */
  readonly endSession: () => SessionEnding;
}

/**
 * What all clients of one lease share beside the exporter: its status, its log and its end. An exporter without a
 * controller has one session for its whole life.
 */
export interface Session {
  readonly exporter: Exporter;
  readonly status: SessionStatus;
  readonly logRing: LogRing;
  motd: string;
  /** Told what clients and hooks do. */
  observer?: SessionObserver | undefined;
  endSession(): SessionEnding;
  /** Ends the log streams. What serves the session must be closed before. */
  close(): void;
}

/** Begins a session; its status is AVAILABLE until somebody says more. */
export function createSession(exporter: Exporter, { motd = "", endSession }: SessionOptions): Session {
  const status = new SessionStatus();
  status.set("AVAILABLE", "");
  const logRing = new LogRing(exporter.logs);
  return { exporter, status, logRing, motd, endSession, close: () => logRing.close() };
}

/** The session of an exporter without a controller: ready from the first moment unless told not, and after every client. */
export function createDirectSession(
  exporter: Exporter,
  { ready = true, ...options }: { motd?: string | undefined; ready?: boolean } = {},
): Session {
  const session = createSession(exporter, {
    ...options,
    // There is no lease to end, and the next client must find the exporter ready.
    endSession: () => ({ success: true, message: "Session ended, the exporter stays ready" }),
  });
  if (ready) session.status.set("LEASE_READY", "Ready for commands");
  return session;
}
