import { readFileSync } from "node:fs";
import pino from "pino";
import { severities, type LogBus, type LogRecord, type Severity } from "../driver/log.ts";
import type { Journal } from "../sys/journal.ts";
import { journalEntry, journalOfOutput } from "./journal-log.ts";

export interface ProcessLogOptions {
  /** Least severe level that is written: debug, info, warning, error or critical. */
  readonly level?: string | undefined;
  readonly format?: string | undefined;
}

/** Where the lines of all exporters of this process go. */
export interface ProcessLog {
  /** Copies every record of the bus. @param exporter whose records they are; none for those of the process itself */
  follow(logs: LogBus, exporter?: string): void;
  /** Writes what is still in memory, however slow the reader is. */
  close(): void;
}

/** A reader that stands still may cost this much memory; after that lines are lost, not the agent. */
const maxBufferedBytes = 4 * 1024 * 1024;

/** Lines wait this long for others to be written with: one write each would cost a driver call a third of its time. */
const gatherMs = 50;
const gatherBytes = 16 * 1024;

const levels: Record<Severity, { name: string; value: number }> = {
  DEBUG: { name: "debug", value: 20 },
  INFO: { name: "info", value: 30 },
  WARNING: { name: "warning", value: 40 },
  ERROR: { name: "error", value: 50 },
  CRITICAL: { name: "critical", value: 60 },
};

/** What `--log-level` asks for. */
export function levelOf(given: { readonly "log-level"?: string }): Severity {
  return (given["log-level"]?.toUpperCase() ?? "INFO") as Severity;
}

/** Writes log records to standard output: entries of the journal if it leads there, text where a person reads along, else JSON lines. */
export async function startProcessLog(options: ProcessLogOptions): Promise<ProcessLog> {
  const journal = options.format === undefined || options.format === "auto" ? await journalOfOutput() : undefined;
  return journal === undefined ? await startOutput(options) : intoJournal(journal, options);
}

function intoJournal(journal: Journal, { level = "info" }: ProcessLogOptions): ProcessLog {
  const least = severities.indexOf(level.toUpperCase() as Severity);
  const unsubscribers: (() => void)[] = [];
  return {
    follow(logs, exporter) {
      const write = (record: LogRecord) => {
        if (severities.indexOf(record.severity) < least) return;
        journal.write(journalEntry(record, exporter, logs.context));
      };
      unsubscribers.push(logs.subscribe(write));
    },
    close() {
      for (const unsubscribe of unsubscribers) unsubscribe();
      journal.close();
    },
  };
}

async function startOutput(options: ProcessLogOptions): Promise<ProcessLog> {
  const text = options.format === "text" || (options.format !== "json" && process.stdout.isTTY);
  const destination = pino.destination({ fd: 1, sync: text, maxLength: maxBufferedBytes });
  // A log reader that has gone away (EPIPE) does not end the exporter.
  destination.on("error", () => {});
  const gathered = gather(destination);
  const namespace = text ? undefined : clusterNamespace();
  const writer = pino(
    {
      level: options.level ?? "info",
      customLevels: Object.fromEntries(Object.values(levels).map(({ name, value }) => [name, value])),
      useOnlyCustomLevels: true,
      base: {
        component: "exporter",
        ...(namespace === undefined ? {} : { namespace }),
      },
      timestamp: false,
      formatters: { level: (label) => ({ level: label }) },
    },
    text ? await pretty(destination) : gathered,
  );
  const unsubscribers: (() => void)[] = [];
  return {
    follow(logs, exporter) {
      const whose = exporter === undefined ? {} : { exporter };
      const write = (record: LogRecord) => {
        const context = { ...whose, ...logs.context, ...contextOf(record) };
        writer[levels[record.severity].name as "info"](context, record.message);
      };
      unsubscribers.push(logs.subscribe(write));
    },
    close() {
      for (const unsubscribe of unsubscribers) unsubscribe();
      gathered.flush();
      try {
        destination.flushSync();
      } catch {
        // The reader has gone, and with it who would want the lines.
      }
    },
  };
}

/** Hands lines on in batches. */
function gather(destination: pino.DestinationStream) {
  let lines = "";
  let timer: NodeJS.Timeout | undefined;
  const flush = () => {
    clearTimeout(timer);
    timer = undefined;
    if (lines !== "") destination.write(lines);
    lines = "";
  };
  const write = (line: string) => {
    lines += line;
    if (lines.length >= gatherBytes) flush();
    else timer ??= setTimeout(flush, gatherMs);
  };
  return { write, flush };
}

function contextOf(record: LogRecord): Record<string, unknown> {
  const { operation, driverType, fields } = record;
  return {
    ts: record.time.toISOString(),
    logger: record.logger,
    ...(operation === undefined ? {} : { operation }),
    ...(driverType === undefined ? {} : { driver_type: driverType }),
    ...fields,
  };
}

async function pretty(destination: pino.DestinationStream): Promise<pino.DestinationStream> {
  const { default: build } = await import("pino-pretty");
  return build({
    destination,
    colorize: process.stdout.isTTY && !process.env["NO_COLOR"],
    customLevels: Object.fromEntries(Object.values(levels).map(({ name, value }) => [name, value])),
    useOnlyCustomProps: true,
    timestampKey: "ts",
    translateTime: "SYS:HH:MM:ss.l",
    hideObject: true,
    messageFormat: "{if exporter}{exporter} {end}{logger}: {msg}{if operation} ({operation}){end}",
  });
}

/** The Kubernetes namespace the process runs in, if it runs in one. */
function clusterNamespace(): string | undefined {
  const given = process.env["NAMESPACE"] || process.env["POD_NAMESPACE"];
  if (given) return given;
  try {
    return readFileSync("/var/run/secrets/kubernetes.io/serviceaccount/namespace", "utf8").trim() || undefined;
  } catch {
    return undefined;
  }
}
