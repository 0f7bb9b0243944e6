/**
 * Who had the exporter when, and did what: JSON lines. Never arguments, results or tokens. What happens in a lease is
 * added up and written every ten seconds, to spare SD cards; a crash loses no more than that.
 */
import { systemClock, type Clock } from "../controller/clock.ts";
import type { SessionObserver } from "../session/observer.ts";
import { createTally, type Tally } from "./audit-tally.ts";
import { rotatingFile } from "./rotating-file.ts";

export interface AuditLogOptions {
  readonly file: string;
  readonly maxBytes?: number;
  readonly keep?: number;
  readonly clock?: Clock;
  /** Told when records begin to be lost: a full or read-only disk costs the records, never the lease. */
  readonly warn?: (message: string) => void;
}

/** One file for all exporters of a process. No other process may write to it. */
export interface AuditLog {
  begin(lease: AuditedLease): LeaseAudit;
  /** Writes what is known of leases that still go on. Idempotent. */
  close(): Promise<void>;
}

export interface AuditedLease {
  readonly exporter: string;
  readonly lease: string;
  readonly client: string;
  /** What the lease says about itself, such as the build it is for. */
  readonly context?: Readonly<Record<string, string>>;
}

export type AuditFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

/** The record of one lease; give it to the lease's session as its observer. */
export interface LeaseAudit extends SessionObserver {
  /** The lease goes over to another client. */
  client(name: string): void;
  /** A hook's outcome, a change of status; no field may hold a secret. */
  event(name: string, fields?: AuditFields): void;
  /** The lease is over; what comes later is not written. Idempotent. */
  end(how: { readonly outcome: string; readonly reason?: string | undefined }): void;
}

const gatherMs = 10_000;
const longestText = 1_024;
const mostFields = 64;

export function openAuditLog(options: AuditLogOptions): AuditLog {
  const { file, maxBytes = 10 * 1024 * 1024, keep = 5, clock = systemClock, warn = () => {} } = options;
  const record = (fields: object) => JSON.stringify({ time: clock.wall().toISOString(), ...fields });
  const lines = rotatingFile({
    file,
    maxBytes,
    keep,
    warn: (message) => warn(`the audit log loses records: ${message}`),
    lost: (count) => record({ event: "records-lost", count }),
  });
  const open = new Set<{ flush(): void }>();
  const closing = new AbortController();
  let gathering = false;

  /** One timer for all leases, and only while something is to be written. */
  const gather = () => {
    if (gathering || closing.signal.aborted) return;
    gathering = true;
    clock.sleep(gatherMs, closing.signal).then(
      () => {
        gathering = false;
        for (const lease of open) lease.flush();
      },
      () => {},
    );
  };

  return {
    begin({ exporter, lease, client: first, context = {} }) {
      let client = first;
      let recent = createTally();
      const total = createTally();
      const beganMs = clock.now();
      let recentSinceMs = beganMs;
      let over = false;
      const elapsed = (sinceMs: number) => Math.round(clock.now() - sinceMs);
      const write = (event: string, fields: object) => {
        if (over) return;
        lines.write(record({ event, exporter, lease: cut(lease), client: cut(client), ...fields }));
      };
      const add = (count: (tally: Tally) => void) => {
        if (over) return;
        if (recent.empty) recentSinceMs = clock.now();
        count(recent);
        count(total);
        gather();
      };
      const flush = () => {
        if (recent.empty) return;
        write("lease-calls", { ms: elapsed(recentSinceMs), ...recent.details() });
        recent = createTally();
      };
      const entry = { flush };
      open.add(entry);
      write("lease-begin", { context: bounded(context) });
      return {
        call: (done) => add((tally) => tally.call(done)),
        stream: (done) => add((tally) => tally.stream(done)),
        resource: (done) => add((tally) => tally.resource(done)),
        client(name) {
          // What was done until now was done by the client before.
          flush();
          const from = client;
          client = name;
          write("lease-transfer", { from: cut(from) });
        },
        event(name, fields = {}) {
          flush();
          write(cut(name), { fields: bounded(fields) });
        },
        end({ outcome, reason }) {
          flush();
          write("lease-end", {
            outcome: cut(outcome),
            ...(reason === undefined ? {} : { reason: cut(reason) }),
            ms: elapsed(beganMs),
            ...total.sums(),
          });
          over = true;
          open.delete(entry);
        },
      };
    },
    async close() {
      closing.abort();
      for (const lease of open) lease.flush();
      open.clear();
      await lines.close();
    },
  };
}

function bounded(fields: AuditFields): Record<string, unknown> {
  const entries = Object.entries(fields).slice(0, mostFields);
  return Object.fromEntries(entries.map(([key, value]) => [cut(key), typeof value === "string" ? cut(value) : value]));
}

function cut(text: string): string {
  return text.length <= longestText ? text : `${text.slice(0, longestText)}…`;
}
